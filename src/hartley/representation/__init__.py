"""What a network encodes: how much, in how many directions, and where."""

from hartley.representation.adjacency_entropy import kernel_spectral_entropy, neighbor_spectral_entropy
from hartley.representation.code_classifiers import HammingNeighborsClassifier, clustering_purity
from hartley.representation.condition_numbers import WeightCondition, condition_numbers, gaussian_output_entropy
from hartley.representation.contraction import dobrushin, eta_kl, sdpi_dropconnect, sdpi_dropout, sdpi_gaussian
from hartley.representation.diffusion_information import (
    DiffusionSpectralMutualInformation,
    classic_shannon_entropy,
    diffusion_spectral_mutual_information,
    matrix_entry_entropy,
)
from hartley.representation.diffusion_loss import diffusion_spectral_entropy_loss
from hartley.representation.diffusion_spectral import DiffusionSpectralEntropy, diffusion_spectral_entropy
from hartley.representation.effective_features import EffectiveFeatures, effective_features, superposition_ratio
from hartley.representation.funnel import Funnel, generalization_funnel
from hartley.representation.generalization import PlugInBound, kl_bound, wasserstein_bound
from hartley.representation.hash_codes import HashCodes, NeuralCodeTransformer, code_entropy, redundancy_ratio
from hartley.representation.kappa_tuning import freeze_except, kappa_lora_config, select_kappa
from hartley.representation.koopman import (
    KoopmanTerms,
    WaterFilling,
    gaussian_lagged_mi,
    koopman_loss,
    latent_entropy,
    ridge_koopman,
    temporal_infonce,
    water_filling,
)
from hartley.representation.koopman_autoencoder import KoopmanAutoencoder
from hartley.representation.layer_measures import layer_measures, measures_of
from hartley.representation.lipschitz import lipschitz_constant, operator_norm
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
from hartley.representation.sample_distances import estimate_kl, gaussian_kl, wasserstein_distance
from hartley.representation.solved_gaps import (
    Gibbs,
    finite_weights_bound,
    gaussian_classification_bound,
    gibbs_generalization,
)
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
    "Funnel",
    "Gibbs",
    "HammingNeighborsClassifier",
    "HashCodes",
    "KoopmanAutoencoder",
    "KoopmanTerms",
    "MixturePretrainer",
    "NeuralCodeTransformer",
    "PhaseChart",
    "PlugInBound",
    "PretrainedERM",
    "Reservoir",
    "SparseAutoencoder",
    "Superposition",
    "TiedSAE",
    "UntiedSAE",
    "WaterFilling",
    "WeightCondition",
    "classic_shannon_entropy",
    "clustering_purity",
    "code_entropy",
    "condition_numbers",
    "diffusion_spectral_entropy",
    "diffusion_spectral_entropy_loss",
    "diffusion_spectral_mutual_information",
    "dobrushin",
    "effective_features",
    "effective_rank",
    "estimate_kl",
    "eta_kl",
    "excess_risk_curve",
    "finite_weights_bound",
    "freeze_except",
    "gaussian_classification_bound",
    "gaussian_kl",
    "gaussian_lagged_mi",
    "gaussian_output_entropy",
    "generalization_funnel",
    "gibbs_generalization",
    "kappa_lora_config",
    "kernel_spectral_entropy",
    "kl_bound",
    "koopman_loss",
    "latent_entropy",
    "layer_measures",
    "linear_excess_risk",
    "lipschitz_constant",
    "load_saelens",
    "matrix_entry_entropy",
    "matrix_renyi_entropy",
    "measure_dictionary",
    "measure_superposition",
    "measures_of",
    "neighbor_spectral_entropy",
    "neural_code",
    "operator_norm",
    "participation_ratio",
    "phase_chart",
    "record",
    "redundancy_ratio",
    "ridge_koopman",
    "sdpi_dropconnect",
    "sdpi_dropout",
    "sdpi_gaussian",
    "select_kappa",
    "superposition_ratio",
    "temporal_infonce",
    "von_neumann_entropy",
    "wasserstein_bound",
    "wasserstein_distance",
    "water_filling",
]
