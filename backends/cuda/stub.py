"""Declarations that CUDA kernels may use: names and types only, no header of a toolkit."""

from __future__ import annotations

ELEMENTS = {
    "char": "signed char", "uchar": "unsigned char", "short": "short", "ushort": "unsigned short",
    "int": "int", "uint": "unsigned", "longlong": "long long", "ulonglong": "unsigned long long",
    "float": "float", "double": "double",
}  # fmt: skip
FIELDS = "xyzw"
HALVES = {"half": ("__half", "_Float16"), "bfloat16": ("__nv_bfloat16", "__bf16")}

_ATTRIBUTES = """
#define __global__ __attribute__((annotate("global")))
#define __shared__ __attribute__((annotate("shared")))
#define __constant__ __attribute__((annotate("constant")))
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n), annotate("aligned " #n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#include "math.h"
#include "stdint.h"
#include "stddef.h"
struct opwright_place { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
extern const opwright_place threadIdx, blockIdx, blockDim, gridDim;
extern const int warpSize;
void __syncthreads(); void __syncwarp(); void __syncwarp(unsigned);
void __threadfence(); void __threadfence_block();
int __syncthreads_or(int); int __syncthreads_and(int); int __syncthreads_count(int);
unsigned __activemask(); unsigned __ballot_sync(unsigned, int);
int __any_sync(unsigned, int); int __all_sync(unsigned, int);
template <class T> T __ldg(const T *); template <class T> T __ldcs(const T *);
template <class T> T __ldcg(const T *); template <class T> T __ldca(const T *);
template <class T> void __stcs(T *, T); template <class T> void __stcg(T *, T);
template <class T> void __stwt(T *, T); template <class T> void __stwb(T *, T);
"""
_SHUFFLES = "__shfl_sync __shfl_down_sync __shfl_up_sync __shfl_xor_sync".split()
_ATOMICS = "atomicAdd atomicMax atomicMin atomicSub atomicExch atomicCAS atomicOr atomicAnd".split()
_ONE = """
rsqrt rcbrt erfcinv erfinv normcdf exp10 sinpi cospi
""".split()
_FAST = """
__expf __exp10f __logf __log2f __log10f __sinf __cosf __tanf __frsqrt_rn __fsqrt_rn __frcp_rn
__saturatef tanhf __tanhf
""".split()
_TWO = "__fdividef __powf __fadd_rn __fsub_rn __fmul_rn __fdiv_rn".split()
_CASTS = {
    "int": "__float2int_rn __float2int_rz __float2int_rd __float2int_ru".split(),
    "unsigned": "__float2uint_rn __float2uint_rz".split(),
}


def _numbers() -> str:
    lines = []
    for name in _ONE:
        lines.append(f"float {name}f(float); double {name}(double); float {name}(float);")
    lines += [f"float {name}(float);" for name in _FAST]
    lines += [f"float {name}(float, float);" for name in _TWO]
    lines += ["float __fmaf_rn(float, float, float); double __fma_rn(double, double, double);"]
    for kind, names in _CASTS.items():
        lines += [f"{kind} {name}(float);" for name in names]
    lines += ["float __int2float_rn(int); float __uint2float_rn(unsigned);"]
    lines += ["float exp(float); float log(float); float sqrt(float); float tanh(float);"]
    lines += ["float fma(float, float, float); float floor(float); float ceil(float);"]
    lines += ["float pow(float, float); float erf(float); float sin(float); float cos(float);"]
    lines += ["float fabs(float); float fmax(float, float); float fmin(float, float);"]
    for f in ("min", "max"):
        for kind in ("int", "unsigned", "long", "unsigned long", "long long",
                     "unsigned long long", "float", "double"):  # fmt: skip
            lines.append(f"{kind} {f}({kind}, {kind});")
        lines += [f"unsigned {f}(int, unsigned); unsigned {f}(unsigned, int);"]
        lines += [f"long long {f}(int, long long); long long {f}(long long, int);"]
    lines += ["int __popc(unsigned); int __clz(int); int __ffs(int); int __mul24(int, int);"]
    lines += ["float abs(float); double abs(double);"]
    return "\n".join(lines)


def _threads() -> str:
    lines = []
    for name in _SHUFFLES:
        kind = "unsigned" if name in ("__shfl_down_sync", "__shfl_up_sync") else "int"
        lines.append(f"template <class T> T {name}(unsigned, T, {kind});")
        lines.append(f"template <class T> T {name}(unsigned, T, {kind}, int);")
    kinds = ("int", "unsigned", "long long", "unsigned long long", "float", "double")
    for name in _ATOMICS:
        for kind in kinds:
            third = f", {kind}" if name == "atomicCAS" else ""
            lines.append(f"{kind} {name}({kind} *, {kind}{third});")
    for name in ("add", "min", "max"):
        for kind in ("int", "unsigned"):
            lines.append(f"{kind} __reduce_{name}_sync(unsigned, {kind});")
    return "\n".join(lines)


def _vectors() -> str:
    lines = []
    for name, kind in ELEMENTS.items():
        for count in (1, 2, 3, 4):
            fields = ", ".join(FIELDS[:count])
            given = ", ".join(f"{kind} {x}" for x in FIELDS[:count])
            lines.append(f"struct {name}{count} {{ {kind} {fields}; }};")
            lines.append(f"{name}{count} make_{name}{count}({given});")
    return "\n".join(lines)


def _half(word: str) -> str:
    kind, native = HALVES[word]
    pair = f"{kind}2"
    lines = ["#pragma once", f"typedef {native} {kind};", f"struct {pair} {{ {kind} x, y; }};"]
    if word == "half":
        lines += [f"typedef {kind} half; typedef {pair} half2;"]
    else:
        lines += [f"typedef {kind} nv_bfloat16; typedef {pair} nv_bfloat162;"]
    for suffix in ("", "_rn", "_rz"):
        lines.append(f"{kind} __float2{word}{suffix}(float);")
    lines += [f"float __{word}2float({kind}); {kind} __ldg(const {kind} *);"]
    lines += [f"float __low2float({pair}); float __high2float({pair});"]
    lines += [f"{kind} __low2{word}({pair}); {kind} __high2{word}({pair});"]
    lines += [f"{kind} __double2{word}(double); {kind} __int2{word}_rn(int);"]
    both = f"{word}2" if word == "half" else "bfloat162"
    lines += [f"{pair} __floats2{both}_rn(float, float); {pair} __float2{both}_rn(float);"]
    lines += [f"{pair} __float22{both}_rn(float2); float2 __{both}2float2({pair});"]
    lines += [f"{pair} __halves2{both}({kind}, {kind}); {pair} make_{both}({kind}, {kind});"]
    for name in ("add", "sub", "mul", "div", "max", "min"):
        lines.append(f"{kind} __h{name}({kind}, {kind}); {pair} __h{name}2({pair}, {pair});")
    lines += [f"{kind} __hfma({kind}, {kind}, {kind}); {pair} __hfma2({pair}, {pair}, {pair});"]
    lines += [f"{kind} __hneg({kind});"]
    for name in ("exp", "log", "sqrt", "rsqrt", "rcp"):
        lines.append(f"{kind} h{name}({kind});")
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        lines.append(f"bool __h{name}({kind}, {kind});")
    return "\n".join(lines) + "\n"


STUB = "\n".join([_ATTRIBUTES, _numbers(), _vectors(), _threads()]) + "\n"
# of math_constants.h, as nvcc spells them, those that kernels use
CONSTANTS = """\
INF_F (__builtin_inff())|NAN_F (__builtin_nanf(""))|INF (__builtin_inf())|NAN (__builtin_nan(""))
MAX_NORMAL_F 3.402823466e38F|NORM_HUGE_F 3.402823466e38F|NEG_ZERO_F (-0.0F)|ZERO_F 0.0F|ONE_F 1.0F
SQRT_HALF_F 0.707106781F|SQRT_TWO_F 1.414213562F|THIRD_F 0.333333333F|PIO4_F 0.785398163F
PIO2_F 1.570796327F|3PIO4_F 2.356194490F|2_OVER_PI_F 0.636619772F|SQRT_2_OVER_PI_F 0.797884561F
PI_F 3.141592654F|L2E_F 1.442695041F|L2T_F 3.321928094F|LG2_F 0.301029996F|LGE_F 0.434294482F
LN2_F 0.693147181F|LNT_F 2.302585093F|LNPI_F 1.144729886F
ZERO 0.0|ONE 1.0|SQRT_TWO 1.4142135623730951e+0|SQRT_HALF 7.0710678118654757e-1
THIRD 3.3333333333333333e-1|PIO4 7.8539816339744828e-1|PIO2 1.5707963267948966e+0
2_OVER_PI 6.3661977236758138e-1|PI 3.1415926535897931e+0|SQRT_2PI 2.5066282746310007e+0
L2E 1.4426950408889634e+0|L2T 3.3219280948873622e+0|LG2 3.0102999566398120e-1
LGE 4.3429448190325182e-1|LN2 6.9314718055994529e-1|LNT 2.3025850929940459e+0
"""
MATH_CONSTANTS = "#pragma once\n" + "".join(
    f"#define CUDART_{one}\n" for line in CONSTANTS.splitlines() for one in line.split("|")
)
EMPTY = "cuda_runtime.h cuda.h device_launch_parameters.h vector_types.h cuda_runtime_api.h".split()
PLAIN = {**dict.fromkeys(EMPTY, "#pragma once\n"), "math_constants.h": MATH_CONSTANTS}
HEADERS = {
    **PLAIN,
    "cuda_fp16.h": _half("half"),
    "cuda_bf16.h": _half("bfloat16"),
}
