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
    (first, end), flip = about['answers'], 'lifted too and averaged inside' if about['flip'] else 'not lifted'
    frames = f'frame {first}' if end - first == 1 else f'frames {first} to {end - 1}'
    session.say(f'{path}: reads keypoints (batch, {about["frames"]}, {len(about["keypoints"])}, '
                f'{len(about["values"])}), gives poses (batch, {end - first}, {len(about["joints"])}, 3) of {frames} '
                f'(from 0), {about["unit"]}; root {about["root_is"]}; mirrored keypoints {flip}')
    session.say(f'read again, it gives what the model gives to {difference:.1g}')
