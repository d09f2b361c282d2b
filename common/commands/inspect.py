"""--inspect: say what a checkpoint is."""

from dataclasses import asdict
from typing import Any

from common.commands.session import Session, needed, read_checkpoint
from common.models import DEFAULT_MODEL, MODELS, model_class
from common.models.diffusion import Diffusion
from common.models.loading import recognise
from common.models.stored import base_state
from common.storage.checkpoint import Checkpoint
from common.storage.files import one_line, shown


def run(session: Session) -> None:
    """Print what the file of --inspect is. Raises FileError."""
    print(describe_file(read_checkpoint(session.config, needed(session.config.run.inspect, '--inspect'))))


def describe_file(saved: Checkpoint) -> str:
    """Return what a checkpoint is, a line per fact; for a public file, what its shapes tell."""
    lines = [f'file       {saved.path}']
    facts: dict[str, Any]
    if saved.public:
        name = recognise(base_state(saved)) or DEFAULT_MODEL
        kind = model_class(name)
        try:
            config = kind.config_of(base_state(saved))
        except (ValueError, ArithmeticError) as error:
            return f'{lines[0]}\nkind       a file of weights that are not {kind.title}\'s: {one_line(error)}'
        untold = {size: f'not in the shapes, {getattr(config, size)} is assumed'
                  for size in getattr(kind.Config, 'not_in_a_file', ())}
        facts = {'kind': 'a public file; what follows was inferred from its shapes', 'model': name,
                 'config': asdict(config) | saved.config,
                 'keypoints': kind.keypoints_of(base_state(saved)) or 'any number', **untold,
                 'epoch': saved.epoch, 'lr': saved.lr}
    else:
        stored, name = saved.stored, saved.model
        step = f', step {stored["step"]} of the next' if stored['step'] else ''
        facts = {'kind': 'a checkpoint of this program', 'model': saved.model, 'config': saved.config,
                 'skeleton': f'{saved.skeleton.name}, {len(saved.skeleton)} joints: {", ".join(saved.skeleton.joints)}',
                 'keypoints': f'{saved.keypoints} of {saved.dataset}, layout {saved.layout.name}, {len(saved.layout)}',
                 'epoch': f'{saved.epoch}{step}', 'metrics': stored['metrics'], 'best': saved.best,
                 'settings': saved.settings, 'run': one_line(saved.run, 5000),
                 'versions': shown(stored.get('versions'), 200)}
    measured = () if name not in MODELS else model_class(name).measured_keys
    tables = Diffusion.constant_keys if saved.config.get('diffusion') else ()
    parameters = sum(v.numel() for key, v in saved.state.items()
                     if 'running_' not in key and 'num_batches' not in key and key not in tables
                     and key.rpartition('base.')[2] not in measured)
    facts['parameters'] = f'{parameters:,}'
    return '\n'.join(lines + [f'{name:<10} {fact}' for name, fact in facts.items()])
