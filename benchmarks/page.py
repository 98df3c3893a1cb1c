"""Write `docs/measurements.md` from the files in `benchmarks/results/`: `python -m benchmarks.page`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "measurements.md"
SEEN = """What to see: on real rows and on Gaussian ones a nucleus costs a small multiple of reading the logits, because
nothing is sorted that is not kept. At batch 1 over 49,152 tokens the fixed cost of a step in Python, about 0.2 ms, is
most of it. On flat rows nearly everything is kept, so nearly everything is sorted, and the advantage ends."""


def read(name: str) -> dict[str, Any]:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def decoding() -> list[str]:
    """Tokens a second, and where a step's time goes."""
    found = read("decoding")
    step = found["step"]
    total = step["model ms"] + step["sampling ms"]
    entropies = step["entropy and varentropy ms"]
    return [
        "## Decoding the default model\n",
        "128 tokens, batch 1, nucleus 0.9, per-token entropy and varentropy included for ours; median of three rounds "
        "in turn.\n",
        "| engine | tokens a second | against transformers.generate in float32 |\n|---|---|---|",
        *(f"| {row['engine']} | {row['tokens_per_second']:.1f} | {row['times']:.2f} |" for row in found["rows"]),
        f"\nA step of the default engine takes {total:.1f} ms: the model {step['model ms']:.1f}, sampling "
        f"{step['sampling ms']:.2f} ({step['sampling ms'] / total:.1%}), of which the entropy and the varentropy are "
        f"{entropies:.2f} ms ({entropies / total:.1%}). llama.cpp is faster on its own 4-bit weights, and returns no "
        "entropy.\n",
    ]


def llama() -> list[str]:
    """Our samplers in llama.cpp beside its own."""
    found = read("llama")
    step = found["step_ms"]["top_p"]
    return [
        "## Our samplers in llama.cpp\n",
        f"{found['model']}, batch 1, {found['tokens']} tokens of the same text for both, median of {found['rounds']} "
        "rounds in turn. Ours is the public decode loop with every number of a Draw; llama.cpp's is its own chain "
        "driven by the low-level interface, which returns the token alone. Share: our speed over llama.cpp's.\n",
        "| sampler | ours, tokens a second | llama.cpp's own | share | sampling, ours, ms | llama.cpp's own, ms |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in found["rows"]),
        f"\nA step of ours with top_p, ms: {', '.join(f'{name} {ms:.2f}' for name, ms in step.items())}.\n",
    ]


def vllm() -> list[str]:
    """What our numbers cost in vLLM, beside its log-probabilities."""
    found = read("vllm")
    version = next(value for name, value in found["machine"]["versions"].items() if name.startswith("vllm"))
    return [
        "## Entropy in vLLM\n",
        f"vLLM {version} on this CPU, the default model in float32, sampling by vLLM. Work: the time inside the "
        "functions that do it, ours or vLLM's log-probabilities, as a share of a decode step. Cost: the step against "
        "plain vLLM, with the 95% interval of its median over rounds in turn: the machine's noise is that wide.\n",
        "| requests at once | asked for | step, ms | work, ms | work, % of the step | cost, % (interval) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['concurrency']} | {row['kind']} | {row['step_ms']:.1f} | {row['work_ms']:.2f} "
            f"| {row['work_percent']:.1f} | {row['cost_percent']:+.1f} ({row['cost_interval'][0]:+.1f} to "
            f"{row['cost_interval'][1]:+.1f}) |"
            for row in found["rows"]
        ),
        "",
    ]


def streams() -> list[str]:
    """Tokens a second of all streams together."""
    rows = read("streams")["rows"]
    counts = list(rows[0]["tokens_per_second"])
    return [
        "## Several streams at once\n",
        "Tokens a second of all streams together, by their number, with top_p and every number of a Draw; prompts read "
        "before. In ONNX Runtime our batch gives each row the same bits as alone; ONNX Runtime GenAI needs a generator "
        "a stream.\n",
        f"| loop | {' | '.join(counts)} |\n|{'---|' * (len(counts) + 1)}",
        *(
            f"| {row['loop']} | {' | '.join(f'{speed:.1f}' for speed in row['tokens_per_second'].values())} |"
            for row in rows
        ),
        "",
    ]


def serve() -> list[str]:
    """The server beside transformers', and a long run of it."""
    rows, same = read("serve")["rows"], read("serve")["same_as_alone"]
    lines = [
        "## Serving\n",
        "Chat answers streamed over HTTP to clients that ask at the same moment, on this machine too: tokens a second "
        "of all together, and seconds to a client's first piece of text.\n",
        "| server | clients | tokens a second | first text, s |\n|---|---|---|---|",
        *(
            f"| {row['server']} | {row['clients']} | {row['tokens_per_second']:.1f} | {row['first_token_s']:.2f} |"
            for row in rows
        ),
        "\nTexts of 16 clients at once that are, letter for letter, those of a client alone with the same seed: "
        f"{', '.join(f'{number} of 16 ({name})' for name, number in same.items())}.\n",
    ]
    found, page = read("soak"), read("page")["rows"][0]
    one = found["rows"][0]
    return [
        *lines,
        f"{found['requests']:,} short requests by 16 clients: {one['answered']:,} answered, {one['vanished']:,} left "
        f"by their client on the way, {one['failed']:,} failed. Its memory: {one['MB after 500']:.0f} MB after "
        f"500, at most {one['MB at most later']:.0f} MB later, {one['MB at the end']:.0f} MB at the end.\n",
        f"The page could be used after {page['median_s']:.2f} s in the median of {page['visits']} visits with an empty "
        f"cache, after {page['slowest_s']:.2f} s in the slowest.\n",
    ]


def batch() -> list[str]:
    """Rows a second with Ray, and memory."""
    found = {part["part"]: part["found"] for part in read("batch")["rows"]}
    facts = read("batch")
    lines = [f"## Batch runs\n\n{facts['prompts']:,} prompts of {facts['tokens']} tokens, `hartley batch`.\n"]
    if "scaling" in found:
        lines += ["| how | rows a second, from the first file to the last | the whole, s |\n|---|---|---|"]
        lines += [
            f"| {row['how']} | {row['rows a second']:.1f} | {row['seconds in all']:.0f} |" for row in found["scaling"]
        ]
        lines += [""]
    if "memory" in found:
        lines += ["| what | prompts | most memory, MB |\n|---|---|---|"]
        lines += [f"| {row['what']} | {row['prompts']:,} | {row['MB']:.0f} |" for row in found["memory"]]
        lines += [""]
    return lines


def report() -> list[str]:
    """Pages of long answers."""
    return [
        "## Pages of long answers\n",
        "A chat completion in OpenAI's format with five alternatives a token; Chromium, from the navigation to the "
        "second painted frame, median of five.\n",
        "| tokens | file, MB | read, s | page made, s | page, MB | opened, s | of that its main thread, s |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['tokens']:,} | {row['file MB']:.1f} | {row['read s']:.2f} | {row['make s']:.2f} "
            f"| {row['page MB']:.1f} | {row['open s']:.2f} | {row['open s, main thread']:.2f} |"
            for row in read("report")["rows"]
        ),
        "",
    ]


def fidelity() -> list[str]:
    """KL of the packed weights."""
    return [
        "## What fast engines cost in exactness\n",
        "KL from transformers in float32, nats a token, over every token of a text.\n",
        "| engine and weights | text | KL | worst token | same likeliest token |\n|---|---|---|---|---|",
        *(
            f"| {row['engine']} {row['dtype']} | {row['text']}, {row['tokens']} tokens "
            f"| {row['kl']:.2g} ± {row['standard_error']:.1g} | {row['largest']:.2g} | {row['agreement']:.1%} |"
            for row in read("fidelity")["rows"]
        ),
        "",
    ]


def samplers() -> list[str]:
    """One table for each kind of row."""
    rows = read("samplers")["rows"]
    columns = list(dict.fromkeys((row["V"], row["B"]) for row in rows))
    text = [
        "## One sampling step\n",
        "Statistics of the row, cut, draw, entropy and varentropy, beside transformers' warper + softmax + "
        "multinomial, which gives no entropy. Float32; milliseconds, then how many times torch's own `logsumexp` over "
        "the same logits, then how many times faster than transformers. Recorded rows are next-token logits of the "
        "default model; where V is larger they are tiled, each copy 20 nats lower. `top_n_sigma`, `entropy_top_k` and "
        "`mirostat` have no peer in transformers.\n",
    ]
    for kind in dict.fromkeys(row["rows"] for row in rows):
        text.append(f"### {kind[0].upper()}{kind[1:]} rows\n")
        text.append("| sampler | " + " | ".join(f"V = {size:,}, B = {batch}" for size, batch in columns) + " |")
        text.append("|---" * (len(columns) + 1) + "|")
        lines: dict[str, list[str]] = {}
        for row in rows:
            if row["rows"] == kind:
                faster = f"; {row['times_faster']:.1f}×" if row["times_faster"] else ""
                cell = f"{row['hartley_ms']:.2f} ({row['times_logsumexp']:.1f} lse{faster})"
                lines.setdefault(row["sampler"], []).append(cell)
        text += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in lines.items()]
        text.append("")
    return [*text, SEEN, ""]


def linear() -> list[str]:
    """One pass over a vocabulary beside all logits at once."""
    found = read("linear")
    return [
        "## One pass over a vocabulary\n",
        "Entropy and log-probability of a label at N places, from hidden states [N, D] and a layer [V, D] in float32: "
        "`linear_statistics`, the same from all logits at once, and TRL's two helpers on those. Medians of rounds "
        "in turn. Memory: the most beyond what was there before, the gradients that all return left out.\n",
        "| N | D | V | pass | way | s | of naive | MB | of the logits |\n|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['N']:,} | {row['D']:,} | {row['V']:,} | {row['pass']} | {row['way']} | {row['s']:.2f} "
            f"| {row['of naive']:.2f} | {row['MB']:.0f} | {row['MB'] / row['logits MB']:.2f} |"
            for row in found["rows"]
        ),
        "\nLargest relative error against float64, of 256 places over 49,152 tokens:\n",
        "| inputs | entropy | log-probability | gradient by hidden states | by weight |\n|---|---|---|---|---|",
        *(
            f"| {kind} | {errors['entropy']:.1e} | {errors['log_prob']:.1e} | {errors['by hidden']:.1e} "
            f"| {errors['by weight']:.1e} |"
            for kind, errors in found["errors"].items()
        ),
        "",
    ]


def losses() -> list[str]:
    """Forward and backward of the losses."""
    return [
        "## Losses\n",
        "Forward and backward in float32, medians of rounds in turn, by the clock and of processor time; both against "
        "a baseline on the same rows; and the peak of memory beyond what was held before, gradient included, in sizes "
        "of the logits. The clock of a busy machine says little: read processor time.\n",
        "| rows | loss | ms | CPU ms | against | clock | CPU | peak |\n|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['rows']} | {row['loss']} | {row['ms']:.1f} | {row['cpu_ms']:.1f} | {row['baseline']} "
            f"| {row['times_baseline']:.2f} | {row['times_baseline_cpu']:.2f} | {row['peak_of_logits']:.1f} |"
            for row in read("losses")["rows"]
        ),
        "",
    ]


def spectral() -> list[str]:
    """Diffusion spectral entropy: its time, error and memory."""
    found = read("spectral")
    large, errors = found["large"], found["errors"]
    worst = max(errors, key=lambda row: abs(row["error"]))
    return [
        "## Diffusion spectral entropy\n",
        f"N = {found['rows'][0]['N']:,} rows of three kinds. The peer is `numpy.linalg.eigvalsh` in float64 on the "
        "ready matrix; "
        "ours starts from the rows. Median of rounds in turn.\n",
        "| rows | sigma | t | bits | error, bits | ours, s | peer, s | times faster "
        "|\n|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['cloud']} | {row['sigma']} | {row['t']} | {row['bits']:.4f} | {row['error']:.1e} | "
            f"{row['s']:.3f} | "
            f"{row['peer s']:.3f} | {row['peer s'] / row['s']:.1f} |"
            for row in found["rows"]
        ),
        "\nBy stochastic Lanczos quadrature, in a process of its own:\n",
        "| rows | sigma | N | bits | standard error | truncation at most | s | peak, MB "
        "|\n|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['cloud']} | {row['sigma']} | {row['N']:,} | {row['bits']:.4f} | {row['standard error']:.4f} | "
            f"{row['truncation']:.4f} | {row['s']:.1f} | {row['peak MB']:.0f} |"
            for row in large
        ),
        f"\nAgainst the exact way on {len(errors)} subsets of {errors[0]['N']:,} rows it was off by at most "
        f"{abs(worst['error']):.4f} bits ({worst['cloud']}, sigma {worst['sigma']}).\n",
        "![Time against the number of rows](img/spectral-cost.png)\n",
    ]


def representation() -> list[str]:
    """Condition numbers and nearest codes beside their peers."""
    found = read("representation")
    condition, hamming = found["condition"], found["hamming"]
    ours = "largest relative error, ours (of float64's SVD)"
    said = condition["singular matrices"].items()
    singular = "; ".join(f"{name}: {one['ours']} (torch: {one['torch']})" for name, one in said)
    return [
        "## Condition numbers, and nearest codes\n",
        f"All {condition['matrices']} two-dimensional weights of the default model, and 1-nearest-neighbour search "
        "among "
        f"60,000 codes of 4,096 bits ({hamming['MB of codes']:.0f} MB, packed in "
        f"{hamming['seconds to pack them']:.1f} s). "
        "scikit-learn and NumPy were timed on a slice of the pairs.\n",
        "| what | way | s | queries x codes | ns a pair | times the peer's speed |\n|---|---|---|---|---|---|",
        *(
            f"| {row['what']} | {row['way']} | {row['s']:.3f} | {row.get('queries x codes', '')} | "
            f"{format(row['ns a pair'], '.1f') if 'ns a pair' in row else ''} | {row['times']:.2f} |"
            for row in found["rows"]
        ),
        f"\nThe rankings agree (Spearman {condition['Spearman with torch']:.6f}). Against float64's SVD ours are off "
        f"by at most {condition[ours]:.1e} of themselves, torch's float32 by "
        f"{condition['largest relative error, torch']:.1e}; the largest is {condition['largest kappa']:.3g}. Singular "
        f"matrices: {singular}.\n",
    ]


def xray() -> list[str]:
    """The whole command on the default model."""
    found = read("xray")
    seconds = " and ".join(f"{row['seconds']:.0f}" for row in found["rows"])
    memory = max(row["most_memory_mb"] for row in found["rows"])
    same = "the same JSON, byte for byte" if found["same_json"] else "different JSON"
    return [
        "## hartley xray\n",
        f"The default model on the bundled text, two runs of the whole command: {seconds} s, at most {memory:,.0f} "
        f"MB, {same}; "
        f"the page has {found['html_bytes'] / 1e6:.1f} MB.\n",
    ]


def exactness() -> list[str]:
    """Largest errors against mpmath."""
    return [
        "## Exactness\n",
        "Largest error of random rows against mpmath at 50 digits.\n",
        "| dtype | V | entropy, nats | varentropy, nats² |\n|---|---|---|---|",
        *(
            f"| {row['dtype']} | {row['V']:,} | {row['entropy_error_nats']:.1e} | {row['varentropy_error_nats2']:.1e} |"
            for row in read("exactness")["rows"]
        ),
        "",
    ]


PARTS = (
    decoding, streams, serve, llama, vllm, fidelity, samplers, batch, report, linear, losses, spectral, representation,
    xray, exactness,
)  # fmt: skip


def main() -> None:
    """Write the page."""
    machine = read("samplers")["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = [
        "# Measurements\n",
        "Measured beside the peers, each table in one run, by `make bench`; the files are in `benchmarks/results/`. "
        f"Machine: {machine['cpu']}, {machine['cores']} shared cores, {machine['threads']} threads, {machine['date']}: "
        f"quote the ratios rather than the milliseconds. {versions}.\n",
    ]
    for part in PARTS:
        try:
            head += part()
        except FileNotFoundError as error:  # some take an extra, or an environment of their own
            print(f"left out, since it was not measured: {error.filename}")
    PAGE.write_text("\n".join(head).rstrip() + "\n")


if __name__ == "__main__":
    main()
