"""--models: list the models, what they read and answer for, how large they are, and their published figures."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.commands.session import Session
from common.models import MODELS, build_model, model_class
from common.models.lifter import Lifter, describe_needs
from common.recipe import KEYPOINTS, Published


def run(session: Session) -> None:
    """Print the list."""
    print('Published figures are on Human3.6M, subjects S9 and S11, in mm, mean over actions, unless another data set '
          'is named: MPJPE / P-MPJPE.\n'
          'Sizes are those of the published model. Train one with --model NAME; --model NAME --help shows its recipe.')
    for name in MODELS:
        print('\n' + describe(name))


def describe(name: str) -> str:
    """Return what there is to say of a model, in a few lines."""
    kind = model_class(name)
    skeleton = kind.body()
    model = build_model(name, {}, skeleton, skeleton)
    answered = len(model.answers)
    spaced = f', {model.spacing} apart,' if model.spacing > 1 else ''
    what = 'keypoints' if kind.recipe.joints == KEYPOINTS else 'joints'
    reads = f'; besides the keypoints it reads {describe_needs(model.needs)}' if model.needs else ''
    parameters = sum(p.numel() for p in model.parameters())
    products = multiply_adds(model, len(skeleton)) / 1e6
    lines = [f'{name}: {kind.title}, {kind.paper}',
             f'  reads {model.frames} frame{"" if model.frames == 1 else "s"}{spaced} and answers for '
             f'{"all of them" if answered == model.frames > 1 else answered}{reads}; {len(skeleton)} {what}',
             f'  {parameters:,} parameters, {products:,.1f} M multiply-adds for a frame']
    if kind.denoises:
        lines.append('  can be a denoiser, which makes several hypotheses (--diffusion)')
    if sizes := getattr(kind.Config, 'named', {}):
        lines.append(f'  published sizes (--size): {", ".join(sizes)}')
    if kind.semi_supervised:
        lines.append('  learns from the 2D of further subjects too (--unlabelled)')
    return '\n'.join(lines + [f'  {told(figure)}' for figure in kind.results])


def told(figure: Published) -> str:
    """Return a published figure as a line."""
    values = ' / '.join('–' if value is None else f'{value:.{1 if round(value, 1) == value else 2}f}'
                        for value in (figure.mpjpe, figure.p_mpjpe))
    remark = f', {figure.remark}' if figure.remark else ''
    frames = f'{figure.frames} frame{"" if figure.frames == 1 else "s"}'
    return f'{values:>13}  {figure.keypoints}, {frames}{remark} [{figure.source}]'


def multiply_adds(model: Lifter, keypoints: int) -> float:
    """Return the multiply-adds of the model's matrix products for one frame that it answers for, one pass."""
    channels = 3 if 'confidence' in model.needs else 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # without numbers, only shapes are computed
        model.eval().to('meta')(torch.empty(1, model.frames, keypoints, channels, device='meta'))
    return counter.get_total_flops() / 2 / len(model.answers)
