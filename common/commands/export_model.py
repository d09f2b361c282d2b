"""--export-model: write a trained model for programs that do not have this one, as ONNX or for torch.export.load."""

from pathlib import Path

from common.commands.outputs import check_outputs
from common.commands.predict import load_lifter
from common.commands.session import Session, needed
from common.models.exported import check_packages, check_replaceable, export_model


def run(session: Session) -> None:
    """Write the model of --evaluate, or the shipped one, to the file of --export-model.

    Raises FileError, FlagError, and DivergedError for weights that are not finite.
    """
    config = session.config
    path = Path(needed(config.run.export_model, '--export-model'))
    check_outputs(config)
    check_packages(path)
    check_replaceable(path)
    lifter = load_lifter(session)
    about, difference = export_model(path, lifter, lifter.settings['root'], lifter.settings['flip'])
    first, last = about['answers']
    answers = f'frame {first}' if last - first == 1 else f'frames {first} to {last - 1}'  # of the window, from 0
    session.say(f'{path}: reads keypoints (batch, {about["frames"]}, {len(about["keypoints"])}, '
                f'{len(about["values"])}), gives poses (batch, {last - first}, {len(about["joints"])}, 3) of {answers}, '
                f'{about["unit"]}; root {about["root_is"]}; mirrored keypoints '
                f'{"lifted too and averaged inside" if about["flip"] else "not lifted"}')
    session.say(f'read again, it gives what the model gives to {difference:.1g}')
