"""What a network encodes: how much, in how many directions, and where."""

from hartley.representation.code_classifiers import HammingNeighborsClassifier, clustering_purity
from hartley.representation.condition_numbers import WeightCondition, condition_numbers, gaussian_output_entropy
from hartley.representation.diffusion_information import (
    DiffusionSpectralMutualInformation,
    classic_shannon_entropy,
    diffusion_spectral_mutual_information,
    matrix_entry_entropy,
)
from hartley.representation.diffusion_spectral import DiffusionSpectralEntropy, diffusion_spectral_entropy
from hartley.representation.effective_features import EffectiveFeatures, effective_features, superposition_ratio
from hartley.representation.hash_codes import HashCodes, NeuralCodeTransformer, code_entropy, redundancy_ratio
from hartley.representation.kappa_tuning import freeze_except, kappa_lora_config, select_kappa
from hartley.representation.neural_codes import neural_code
from hartley.representation.phase_chart import PhaseChart, phase_chart
from hartley.representation.pretraining import (
    ClusterLabels,
    ContrastivePretrainer,
    FactorPretrainer,
    MixturePretrainer,
    PretrainedERM,
    excess_risk_curve,
    linear_excess_risk,
)
from hartley.representation.recorder import record
from hartley.representation.reservoir import Reservoir
from hartley.representation.saelens import UntiedSAE, load_saelens
from hartley.representation.sparse_autoencoder import SparseAutoencoder, Superposition, TiedSAE, measure_dictionary
from hartley.representation.spectrum import (
    CovarianceSpectrum,
    effective_rank,
    matrix_renyi_entropy,
    participation_ratio,
    von_neumann_entropy,
)
from hartley.representation.superposition import measure_superposition

__all__ = [
    "ClusterLabels",
    "ContrastivePretrainer",
    "CovarianceSpectrum",
    "DiffusionSpectralEntropy",
    "DiffusionSpectralMutualInformation",
    "EffectiveFeatures",
    "FactorPretrainer",
    "HammingNeighborsClassifier",
    "HashCodes",
    "MixturePretrainer",
    "NeuralCodeTransformer",
    "PhaseChart",
    "PretrainedERM",
    "Reservoir",
    "SparseAutoencoder",
    "Superposition",
    "TiedSAE",
    "UntiedSAE",
    "WeightCondition",
    "classic_shannon_entropy",
    "clustering_purity",
    "code_entropy",
    "condition_numbers",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
    "effective_features",
    "effective_rank",
    "excess_risk_curve",
    "freeze_except",
    "gaussian_output_entropy",
    "kappa_lora_config",
    "linear_excess_risk",
    "load_saelens",
    "matrix_entry_entropy",
    "matrix_renyi_entropy",
    "measure_dictionary",
    "measure_superposition",
    "neural_code",
    "participation_ratio",
    "phase_chart",
    "record",
    "redundancy_ratio",
    "select_kappa",
    "superposition_ratio",
    "von_neumann_entropy",
]
