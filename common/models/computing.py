"""The ways a model computes: precision, compilation, and recomputing blocks in the backward pass to save memory.

Weights, optimizer, statistics of norms, loss and metrics are float32 (metrics partly float64) in every precision:
`fp32` as written; `tf32` lets CUDA's matrix products round their factors to 10 bits; `bf16` keeps tokens, and the
weights that meet them, in bfloat16 between embedding and head.
"""

import contextlib
import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Iterator

import torch

from common.errors import FlagError
from common.models.lifter import Lifter


def training_precision(asked: str | None, device: torch.device) -> str:
    """Return what training computes in: as asked, else tf32 on CUDA and fp32 on a CPU.

    Raises FlagError as `check` does.
    """
    check(asked, device)
    return asked or ('tf32' if device.type == 'cuda' else 'fp32')


def evaluation_precision(asked: str | None, device: torch.device) -> str:
    """Return what evaluation and prediction compute in: fp32 unless asked otherwise.

    Raises FlagError as `check` does.
    """
    check(asked, device)
    return asked or 'fp32'


def check(precision: str | None, device: torch.device) -> None:
    """Raise FlagError for a precision that a device does not have."""
    if precision == 'tf32' and device.type != 'cuda':
        raise FlagError('--precision tf32, asked for here or by the run that is resumed, is a mode of CUDA devices: on '
                        'a CPU say --precision fp32 or bf16')
    if precision == 'bf16' and device.type == 'cuda' and not has_bf16_units(device):
        raise FlagError(f'--precision bf16: {torch.cuda.get_device_name()} has no units for it; say tf32 or fp32')


def has_bf16_units(device: torch.device) -> bool:
    """Return True where a device has units for bf16: tensor cores, or AMX or AVX-512 BF16 in a CPU."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def describe(precision: str, device: torch.device, compiled: bool, recomputed: bool = False) -> str:
    """Return in words how a model computes."""
    words = [precision]
    if precision == 'bf16' and not has_bf16_units(device):
        words = ['bf16 (slower than fp32 here: this CPU has neither AMX nor AVX-512 BF16)']
    if compiled:
        words.append('compiled')
    if recomputed:
        words.append('blocks computed again on the way back')
    return ', '.join(words)


def set_up(model: torch.nn.Module, device: torch.device, compiled: bool, recomputed: bool = False) -> None:
    """Make a model compute as asked for. Raises FlagError as `compile_model` does."""
    keep_freed_memory(device)
    if recomputed:
        recompute_blocks(model)
    if compiled:
        compile_model(model, device)


@functools.cache
def keep_freed_memory(device: torch.device) -> None:
    """Let the process keep the memory of freed tensors for later ones, on a CPU where the allocator is glibc's.

    By itself glibc hands blocks of more than 32 MB back to the kernel at once and asks for them anew, to be zeroed page
    by page: a fifth of the CPU time of a training step of four windows of 243 frames (benchmarks/RESULTS.md).
    """
    on_linux = device.type == 'cpu' and sys.platform == 'linux'
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if on_linux else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has: the card's, or the machine's."""
    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else 2 ** 40


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use at any time so far: of tensors on a CUDA device, or of the whole process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    import resource  # which only Unix systems have
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def computing_in(model: torch.nn.Module, precision: str) -> Iterator[None]:
    """Make the model compute in a precision inside the context, and afterwards in what it did before."""
    models = [module for module in model.modules() if isinstance(module, Lifter)]
    tokens, products = [module.tokens for module in models], torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
        for module in models:
            module.tokens = torch.bfloat16 if precision == 'bf16' else None
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        for module, dtype in zip(models, tokens, strict=True):
            module.tokens = dtype


@contextlib.contextmanager
def recomputing(model: torch.nn.Module) -> Iterator[None]:
    """Make training recompute blocks inside the context, and afterwards as it did before."""
    kept = {module: module.recompute for module in model.modules() if isinstance(module, Lifter)}
    try:
        recompute_blocks(model)
        yield
    finally:
        for module, own in kept.items():
            module.recompute = own


def recompute_blocks(model: torch.nn.Module) -> None:
    """Make training save only the inputs of blocks, and compute what lies inside them again in the backward pass.

    The priors lie outside: computed twice, their batch norms would count every step twice.
    """
    for module in model.modules():
        if isinstance(module, Lifter):
            module.recompute = True


def compile_model(model: torch.nn.Module, device: torch.device) -> None:
    """Compile the model in place, once for each shape that it meets; its parameters keep their names.

    Raises FlagError where torch.compile finds no compiler for the device.
    """
    # The compiler warns of its own workings, and of matrix products that TF32 would make faster: no user's concern.
    warnings.filterwarnings('ignore', module=r'torch\._')
    try:
        torch.compile(torch.square, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:  # each backend raises what it likes
        said = [line for line in str(error).splitlines() if line.strip() and not line.endswith('raised:')]
        reason = said[0].strip() if said else type(error).__name__
        raise FlagError(f'--compile needs a C++ compiler, or Triton for CUDA, which do not work here ({reason}): leave '
                        f'it out, or say --no-compile where a resumed run had it') from None
    # Shapes of training, its last step, validation and the closing table, times the parts that a model falls into.
    config = torch._dynamo.config
    setattr(config, 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit', 64)  # as of 2.6
    model.compile(dynamic=False)
