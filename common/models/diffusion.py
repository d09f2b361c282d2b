"""D3DP: poses by diffusion, many hypotheses of each window, with any denoiser of the registry inside.

Source: Shan et al., "Diffusion-Based 3D Human Pose Estimation with Multi-Hypothesis Aggregation", ICCV 2023 (arXiv
2303.11579): with MixSTE it is D3DP, with KTPFormer what KTPFormer's paper calls KTPFormer + D3DP, whose code was never
released: that one is our reading of the paper. Sampling is DDIM (Song et al., ICLR 2021), the schedule that of Nichol
and Dhariwal (ICML 2021). Letters: B windows, K iterations, P hypotheses, F frames, J joints, which are the keypoints.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from common.augment import Batch, Mirror, generator_of
from common.augment import mirror as mirrored_as
from common.models.around import Around
from common.models.lifter import FRAMES_PER_BATCH, Criterion, Lifter
from common.recipe import Recipe
from common.skeleton import Skeleton

TIMES = 1000  # T: at time 0 there is almost no noise, at time 999 almost nothing else
REACH = 1.1  # metres: noisy and denoised coordinates are cut there
# What is made of the hypotheses, as the tables show it, and what it reads besides the keypoints; the last is the
# headline.
FIGURES = {'J-Best': frozenset({'answer'}), 'P-Best': frozenset({'answer'}),
           'J-Agg': frozenset({'intrinsic', 'distortion', 'root'}), 'P-Agg': frozenset[str]()}
COUNT = 5  # hypotheses, and iterations, of a trained model unless others are asked for, as published
AGGREGATE = 'P-Agg'  # the mean over hypotheses, which reads nothing


def schedule() -> dict[str, torch.Tensor]:
    """Return the tables of the cosine schedule, (T,) float64 each, under the names that public files have.

    Public files have the last four too, which nothing reads.
    """
    k = torch.arange(TIMES + 1, dtype=torch.float64)
    kept = torch.cos((k / TIMES + 0.008) / 1.008 * np.pi * 0.5) ** 2
    kept = kept / kept[0]
    betas = (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)
    alphas = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    variance = betas * (1 - before) / (1 - alphas)
    return {
        'betas': betas, 'alphas_cumprod': alphas, 'alphas_cumprod_prev': before,
        'sqrt_alphas_cumprod': alphas.sqrt(), 'sqrt_one_minus_alphas_cumprod': (1 - alphas).sqrt(),
        'log_one_minus_alphas_cumprod': (1 - alphas).log(), 'sqrt_recip_alphas_cumprod': (1 / alphas).sqrt(),
        'sqrt_recipm1_alphas_cumprod': (1 / alphas - 1).sqrt(), 'posterior_variance': variance,
        'posterior_log_variance_clipped': variance.clamp(min=1e-20).log(),
        'posterior_mean_coef1': betas * before.sqrt() / (1 - alphas),
        'posterior_mean_coef2': (1 - before) * (1 - betas).sqrt() / (1 - alphas)}


def times(iterations: int) -> list[tuple[int, int]]:
    """Return the time of each of K iterations and of the one after it, -1 at the end. K is 1 to 1000."""
    ends = [max(-1, (TIMES * i - iterations) // iterations) for i in range(iterations, -1, -1)]
    return list(itertools.pairwise(ends))


def diffusion_recipe(recipe: Recipe) -> Recipe:
    """Return how a denoiser is trained, given how its model is: as D3DP was."""
    return replace(recipe, epochs=400, lr=6e-5, lr_decay=0.993, stride_limit=243, loss='mpjpe', root='zero')


class Diffusion(Around):
    """(B, F, J, 2) normalised screen coordinates -> (B, F, J, 3) metres: the mean of P hypotheses after K iterations.

    Each hypothesis begins as noise, which the denoiser takes away in K iterations. Weights and tables have the names of
    public checkpoints, which therefore load as they are.
    """

    constant_keys: ClassVar[tuple[str, ...]] = tuple(schedule())
    samples = True
    betas: torch.Tensor
    sqrt_alphas_cumprod: torch.Tensor
    sqrt_one_minus_alphas_cumprod: torch.Tensor
    sqrt_recip_alphas_cumprod: torch.Tensor
    sqrt_recipm1_alphas_cumprod: torch.Tensor
    alphas_cumprod: torch.Tensor

    def __init__(self, denoiser: Lifter, skeleton: Skeleton):
        """Wrap a denoiser. It makes one hypothesis in one iteration, which is how epochs are judged."""
        super().__init__(denoiser)
        self.pose_estimator = denoiser
        self.title, self.recipe = f'{denoiser.title} in D3DP', diffusion_recipe(denoiser.recipe)
        self.joints = len(skeleton)
        self._drawn: tuple[torch.Tensor, torch.Tensor] | None = None  # times and noise of a step
        for name, table in schedule().items():
            self.register_buffer(name, table)

    @property
    def core(self) -> Lifter:
        """Return the denoiser."""
        return self.pose_estimator

    def compile(self, *how: Any, **options: Any) -> None:
        """Compile the denoiser, which is all that takes time."""
        self.pose_estimator.compile(*how, **options)

    # ---- training ------------------------------------------------------------------------------------------------

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Draw times and noise of all windows of a step, of which a process takes its part."""
        super().begin_step(seed, windows, part)
        # Another stream than that of the same seed, which drop paths are drawn from.
        generator = generator_of(self.betas.device, seed, 0, 0, 1)
        self._drawn = tuple(drawn[part] for drawn in self._draw(windows, generator))  # type: ignore[assignment]

    def _draw(self, windows: int, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return times (B,) and noise (B, F, J, 3)."""
        device = self.betas.device
        return (torch.randint(TIMES, (windows,), device=device, generator=generator),
                torch.randn(windows, self.frames, self.joints, 3, device=device, generator=generator))

    def noisy(self, poses: torch.Tensor, time: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return poses as they are at a time: poses and noise (B, F, J, 3), time (B,) -> (B, F, J, 3)."""
        kept, added = (table[time][:, None, None, None] for table in
                       (self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod))
        return (kept * poses + added * noise).clamp(-REACH, REACH).to(poses.dtype)

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of what the denoiser makes of noisy poses, drawn in `begin_step`."""
        truth = batch.truth
        drawn = self._drawn
        if drawn is None or len(drawn[0]) != len(truth):
            drawn = self._draw(len(truth))
        noisy = self.noisy(truth, *drawn)
        return criterion(self.pose_estimator(torch.cat([batch.keypoints, noisy], dim=-1), drawn[0]), truth)

    # ---- sampling ------------------------------------------------------------------------------------------------

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, J, 2) -> (B, F, J, 3), the first hypothesis after one iteration, without a mirror."""
        return self.sampled(Batch(keypoints), None)[:, 0, 0]

    def lift(self, view: Batch, mirror: Mirror | None) -> dict[str, torch.Tensor]:
        """Return the mean over hypotheses after the last iteration, (B, F, J, 3) metres, by its name."""
        return {AGGREGATE: self.sampled(view, mirror)[:, 0].mean(dim=1)}

    def reads(self, name: str) -> frozenset[str]:
        """Return what one of FIGURES reads besides keypoints."""
        return self.needs | FIGURES[name]

    def sampled(self, view: Batch, mirror: Mirror | None, every: bool = False) -> torch.Tensor:
        """Return all hypotheses after the last iteration, (B, 1, P, F, J, 3) metres, or after `every` one, (B, K, …).

        What is drawn for a window depends on its number (`view.window`) alone; the p-th hypothesis of a window begins
        the same however many there are.
        """
        numbers = list(range(len(view.keypoints))) if view.window is None else view.window.tolist()
        return self.sample(view.keypoints, mirror, self._noise_of(numbers), every)

    def _noise_of(self, numbers: Sequence[int]) -> Callable[[], torch.Tensor]:
        """Return what draws noise (B, P, F, J, 3), anew each time, of windows with these numbers."""
        device = self.betas.device
        generators = [generator_of(device, number % 2 ** 32, number >> 32, hypothesis, 0) for number in numbers
                      for hypothesis in range(self.hypotheses)]
        shape = (self.frames, self.joints, 3)

        def drawn() -> torch.Tensor:
            each = [torch.randn(shape, device=device, generator=generator) for generator in generators]
            return torch.stack(each).view(-1, self.hypotheses, *shape) if each else torch.empty(
                0, self.hypotheses, *shape, device=device)
        return drawn

    def sample(self, keypoints: torch.Tensor, mirror: Mirror | None, noise: Callable[[], torch.Tensor],
               every: bool = True) -> torch.Tensor:
        """Return the hypotheses after every iteration, keypoints (B, F, J, 2) -> (B, K, P, F, J, 3), or the last alone.

        Args:
            mirror: with one, each iteration takes the mean with what mirrored keypoints and poses give.
            noise: draws (B, P, F, J, 3) of a normal distribution, anew each time.
        """
        x, answers = noise(), list[torch.Tensor]()
        for now, then in times(self.iterations):
            poses = self.denoised(keypoints, x, now, mirror)
            answers = [*answers, poses] if every else [poses]
            if then < 0:
                break
            # From the state as it is, not as the denoiser saw it; in float64, since the quotient magnifies rounding.
            excess = (self.sqrt_recip_alphas_cumprod[now, None] * x - poses) / self.sqrt_recipm1_alphas_cumprod[
                now, None]
            here, there = self.alphas_cumprod[now].item(), self.alphas_cumprod[then].item()
            variance = (1 - here / there) * (1 - there) / (1 - here)
            x = poses * there ** 0.5 + excess.to(x.dtype) * (1 - there - variance) ** 0.5 + noise() * variance ** 0.5
        return torch.stack(answers, dim=1)

    def denoised(self, keypoints: torch.Tensor, x: torch.Tensor, time: int, mirror: Mirror | None) -> torch.Tensor:
        """Return what the denoiser makes of states x (B, P, F, J, 3) at a time: (B, P, F, J, 3) metres.

        Hypotheses of all windows go through in batches that fit.
        """
        windows, hypotheses = x.shape[:2]
        rows = torch.arange(windows * hypotheses, device=x.device)
        most = max(1, FRAMES_PER_BATCH[x.device.type] // self.frames)
        x = x.flatten(0, 1).clamp(-REACH, REACH)
        parts = []
        for part in rows.split(-(-len(rows) // max(1, -(-len(rows) // most)))) if len(rows) else ():
            seen = torch.cat([keypoints[part // hypotheses], x[part]], dim=-1)
            if mirror is not None:
                seen = torch.cat([seen, torch.cat([mirrored_as(seen[..., :2], mirror.keypoints),
                                                   mirror.poses(seen[..., 2:])], dim=-1)])
            told = self.pose_estimator(seen, torch.full((len(seen),), time, device=x.device))
            if mirror is not None:
                plain, mirrored = told.chunk(2)
                told = (plain + mirror.poses(mirrored)) / 2
            parts.append(told.clamp(-REACH, REACH))
        return torch.cat([x[:0], *parts]).unflatten(0, (windows, hypotheses))
