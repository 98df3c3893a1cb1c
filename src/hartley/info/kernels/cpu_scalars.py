"""Single numbers of the CPU kernels: an exponential that vectorises, noise, and keys whose order is that of a list."""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
TINY = np.float32(-87.0)  # exp of less is below the smallest normal float32 and counts as zero
LOWEST = np.finfo(np.float32).min


@intrinsic
def _round(_, x):
    """The nearest integer, as float32 (adding and subtracting a large number would be reassociated away)."""

    def build(__, builder, ___, arguments):
        rint = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
        return builder.call(rint, arguments)

    return types.float32(types.float32), build


@intrinsic
def _power_of_two(_, n):
    """2**n as float32 for an integral float32 n in [-126, 127]: the integer moves into the exponent bits."""

    def build(__, builder, ___, arguments):
        whole = builder.fptosi(arguments[0], ir.IntType(32))
        exponent = builder.add(whole, ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), build


@njit(inline="always")
def exp(x):
    """exp(x) of a float32 in [-87, 0]: Cody-Waite reduction and a polynomial, with no branch, so it vectorises."""
    n = _round(x * _LOG2E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return ((p * r * r + r) + np.float32(1.0)) * _power_of_two(n)


@njit(cache=True)
def exps(log_probs, out):
    """Probabilities, float32: apart from their sum, so that this loop vectorises."""
    for j in range(log_probs.size):
        inside = log_probs[j] > TINY
        e = exp(log_probs[j] if inside else TINY)
        out[j] = e if inside else np.float32(0.0)


@njit(inline="always")
def uniform(seed, token):
    """SplitMix64 of (seed, token), in (0, 1)."""
    z = seed + (np.uint64(token) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(inline="always")
def falling_key(bits, token):
    """A uint64 whose order is falling logit, then rising id; ``bits`` are the float32's, with -0.0 read as 0.0."""
    u = np.uint64(np.uint32(bits))
    if u == 0x80000000:
        u = np.uint64(0)
    rising = u ^ np.uint64(0xFFFFFFFF) if u & np.uint64(0x80000000) else u | np.uint64(0x80000000)
    return ((rising ^ np.uint64(0xFFFFFFFF)) << np.uint64(32)) | np.uint64(token)


@intrinsic
def _as_float(_, bits):
    """The float32 of 32 bits."""

    def build(__, builder, ___, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), build


@njit(inline="always")
def logit_of(key):
    """The logit of a :func:`falling_key`."""
    rising = np.uint32(key >> np.uint64(32)) ^ np.uint32(0xFFFFFFFF)
    sign = np.uint32(0x80000000)
    return _as_float(rising ^ sign if rising & sign else rising ^ np.uint32(0xFFFFFFFF))


@njit(cache=True)
def sort_keys(keys):
    """Sort keys whose ids already rise: by radix, on the bits of the logit that differ."""
    n = keys.size
    if n < 2:
        return keys
    lowest = keys[0] >> np.uint64(32)
    highest = lowest
    for key in keys:
        lowest = min(lowest, key >> np.uint64(32))
        highest = max(highest, key >> np.uint64(32))
    base = lowest << np.uint64(32)
    width = 6 if n < 400 else 11  # bits at a time: more of them want a longer table
    last = np.uint64((1 << width) - 1)
    other = np.empty_like(keys)
    starts = np.empty((1 << width) + 1, np.int64)
    for shift in range(0, 32, width):
        if (highest - lowest) >> np.uint64(shift) == 0:
            break
        starts[:] = 0
        for i in range(n):
            starts[(((keys[i] - base) >> np.uint64(32 + shift)) & last) + np.uint64(1)] += 1
        for digit in range(last):
            starts[digit + 1] += starts[digit]
        for i in range(n):
            digit = ((keys[i] - base) >> np.uint64(32 + shift)) & last
            other[starts[digit]] = keys[i]
            starts[digit] += 1
        keys, other = other, keys
    return keys
