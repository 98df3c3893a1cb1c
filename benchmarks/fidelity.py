"""How far each fast engine is from the exact default model: `python -m benchmarks.fidelity` renews the record."""

import shutil
from pathlib import Path

import hartley.engines
from benchmarks.common import write
from hartley.decoding import temperature
from hartley.engines import Engine, Request, generate, open_engine
from hartley.engines.fidelity import fidelity
from hartley.models.pack import PACKED_DTYPES

TEXT = Path(__file__).parents[1] / "tests" / "data" / "moby_dick.txt"
RECORD = Path(hartley.engines.__file__).with_name("fidelity.json")


QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "How do I boil an egg?",
    "Give me three names for a grey cat.",
    "What is entropy?",
    "Translate 'good morning' into Spanish.",
    "Why do leaves fall in autumn?",
)


def conversations(engine: Engine) -> list[list[int]]:
    """Questions in the chat template, each with the reply of greedy decoding, as token ids."""
    prompts = [engine.tokenizer.chat(question) for question in QUESTIONS]
    texts = [list(prompt) for prompt in prompts]
    for step in generate(engine, [Request(prompt, temperature(0.0), max_tokens=64) for prompt in prompts]):
        texts[step.index].append(step.token)
    return texts


def main() -> None:
    """Measure, print and write."""
    reference = open_engine("smollm2", "transformers", "float32", device="cpu")
    engines: list[Engine] = [open_engine("smollm2", "onnx", dtype) for dtype in PACKED_DTYPES]
    try:
        engines.append(open_engine("smollm2", "llama"))
    except ImportError as error:
        raise SystemExit(f"the record has llama.cpp in it: {error}") from error
    texts = {
        "Moby Dick": [reference.tokenizer.encode(TEXT.read_text(encoding="utf-8"))],
        "chats with replies": conversations(engines[PACKED_DTYPES.index("float32")]),
    }
    rows = []
    for engine in engines:
        for name, ids in texts.items():
            found = fidelity(engine, reference, *ids)
            rounded = {field: float(f"{value:.3g}") for field, value in found._asdict().items()}
            rows.append({"engine": engine.name, "dtype": engine.dtype, "text": name, **rounded, "tokens": found.tokens})
            print(f"{engine.name:6} {engine.dtype:8} {name:20} KL {found.kl:.2e} ± {found.standard_error:.1e} ", end="")
            print(f"nats a token, the same likeliest token {found.agreement:.1%}")
    path = write("fidelity", rows, model="smollm2", unit="nats a token", reference="transformers float32")
    shutil.copyfile(path, RECORD)
    print(path)


if __name__ == "__main__":
    main()
