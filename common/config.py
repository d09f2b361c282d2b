"""The typed configuration. Every flag is a field of a dataclass, with its help, its default and its commands.

The dataclasses are here, and `Predict` in `common/config_predict.py`.

From these fields come the parser and its help, docs/flags.md, what a checkpoint stores of a run, and the rule that a
flag is refused by a command that would ignore it. To see what a flag does, search for its field: `--clip` is
`Train.clip`, read as `config.train.clip`.

A default of None means that something else decides: the model's recipe, the data set or the checkpoint
(`common/settings.py`).
"""

from dataclasses import dataclass, field, fields
from typing import Any

from common.config_predict import Predict
from common.datasets import DATASETS, DEFAULT_DATASET
from common.flag import (
    CHECK_DATA,
    EVALUATE,
    EXPORT_MODEL,
    INSPECT,
    LIST_MODELS,
    PREDICT,
    RENDER,
    TRAIN,
    Flag,
    actions_of,
    count,
    counts,
    file_ending,
    files_ending,
    flag,
    names_of,
    number,
    positive,
    text,
)
from common.models import DEFAULT_MODEL, MODELS
from common.models.recipes import PUBLISHED, RECIPES
from common.recipe import KEYPOINTS, ROOTS
from common.skeleton import BODIES, VIEWED

COMPUTING = (EVALUATE, RENDER, PREDICT)  # commands that lift with a checkpoint
LIFTING = (*COMPUTING, EXPORT_MODEL)  # that read one to use it
PRECISIONS = ('fp32', 'tf32', 'bf16')


@dataclass(frozen=True)
class Data:
    """data"""

    dataset: str = flag('-d', '--dataset', default=DEFAULT_DATASET, choices=DATASETS, stored=True,
                        commands=(TRAIN, *LIFTING, CHECK_DATA), help='data set; synthetic needs no file')
    keypoints: str | None = flag('-k', '--keypoints', read=text, metavar='NAME', stored=True,
                          commands=(TRAIN, *LIFTING, CHECK_DATA), help='2D keypoints: data_2d_<dataset>_NAME.npz, '
                          'or NAME.pkl for motion3d (default: what the data set is mostly used with)')
    folder: str = flag('--data', default='data', read=text, metavar='DIR', help='folder of the npz files',
                       commands=(TRAIN, EVALUATE, RENDER, CHECK_DATA))
    check_data: bool = flag('--check-data', default=False, kind='yes', starts=True, commands=(CHECK_DATA,),
                            help='only check the files of -d and -k: there, whole, joints in order, metres and pixels, '
                            'left on the left; ends with OK or a list of problems')
    subjects_train: tuple[str, ...] | None = flag('-str', '--subjects-train', read=names_of, metavar='A,B',
                                                  stored=True, commands=(TRAIN,),
                                                  help="training subjects (default: the data set's)")
    subjects_test: tuple[str, ...] | None = flag(
        '-ste', '--subjects-test', read=names_of, metavar='A,B', stored=True, commands=(TRAIN, EVALUATE, PREDICT),
        help="test subjects, taken out of the default training subjects (default: the data set's); with --predict, the "
        'video of a file that holds several')
    actions: tuple[str, ...] | None = flag('-a', '--actions', read=actions_of, metavar='A,B', stored=True,
                                           commands=(TRAIN, EVALUATE),
                                           help='actions, by name or unambiguous prefix (default * = all)')
    downsample: int = flag('--downsample', default=1, read=count, metavar='N', stored=True,
                           commands=(TRAIN, EVALUATE, RENDER), help='keep every N-th frame')
    joints: str | None = flag('--joints', choices=(*BODIES, KEYPOINTS), stored=True,
                              commands=(TRAIN, EVALUATE, RENDER), help="the body of Human3.6M that is lifted and "
                              "averaged over: its 17 joints, or 16 without the neck; or the 2D keypoints themselves "
                              "(default: as the model was published)")
    views: str = flag('--views', default='file', choices=('file', 'random'), stored=True, excludes=('unlabelled',),
                      commands=(TRAIN, EVALUATE, RENDER), help='train on the 3D as random virtual cameras see it, anew '
                      'in each step, and test by fixed ones; not on the views of the file')
    input: str = flag('--input', default='joints', choices=('joints', *VIEWED), stored=True, commands=(TRAIN, EVALUATE,
                      RENDER), help='what cameras of --views random see: the joints, or keypoints as detectors have')
    noise: str = flag('--noise', default='none', choices=('none', 'detector'), stored=True, commands=(TRAIN, EVALUATE,
                      RENDER), help="a detector's errors and confidence, on the keypoints of training windows and of "
                      "--views random")
    subset: float = flag('--subset', default=1.0, read=number(float, 0, 1, low_included=False), metavar='FRACTION',
                         stored=True, commands=(TRAIN, EVALUATE), help='keep this fraction of each training take, a '
                         'stretch from its middle; with --evaluate, of each test take')


@dataclass(frozen=True)
class Model:
    """model"""

    model: str | None = flag('--model', choices=MODELS, commands=(TRAIN, *LIFTING), help='the model, whose '
                             'published recipe the other defaults are (default '
                             f'{DEFAULT_MODEL}, or what a checkpoint says)')
    size: str | None = flag('--size', read=text, metavar='NAME', commands=(TRAIN, *LIFTING), help='a published size of '
                            'the model by its name, which other flags of sizes depart from (default: see --models)')
    frames: int | None = flag('-f', '--number-of-frames', read=number(int, 1, 10_000), metavar='N',
                              commands=(TRAIN, *LIFTING), help='frames of a window')
    channels: int | None = flag('-cs', '--channels', read=number(int, 1, 16_384), metavar='N',
                                commands=(TRAIN, *LIFTING), help='channels of a token')
    depth: int | None = flag('-dep', '--depth', read=number(int, 1, 1_000), metavar='N',
                             commands=(TRAIN, *LIFTING),
                             help='blocks of the network, or pairs of blocks where these alternate')
    heads: int | None = flag('-num_heads', '--num-heads', read=number(int, 1, 1_024), metavar='N',
                             commands=(TRAIN, *LIFTING), help='attention heads')
    hidden: int | None = flag('--hidden', read=number(int, 1, 65_536), metavar='N',
                              commands=(TRAIN, *LIFTING), help='width of the MLPs')
    kpa: bool | None = flag('--no-kpa', kind='no', commands=(TRAIN, *LIFTING),
                            help='a linear embedding in place of the kinematics prior')
    tpa: bool | None = flag('--no-tpa', kind='no', commands=(TRAIN, *LIFTING),
                            help='nothing in place of the trajectory prior')
    widths: tuple[int, ...] | None = flag('-arc', '--architecture', read=counts, metavar='3,3,3',
                                          commands=(TRAIN, *LIFTING), help='widths of the convolutions over time, odd '
                                          'numbers, whose product is the frames of a window')
    strides: tuple[int, ...] | None = flag('--strides', read=counts, metavar='3,9,13', commands=(TRAIN, *LIFTING),
                                           help='how many tokens each of the last blocks makes one of (default: as '
                                           'published for -f)')
    spacing: int | None = flag('-tds', '--temporal-downsampling', read=count, metavar='N', commands=(TRAIN, *LIFTING),
                               help='frames of the video from one frame of a window to the next')
    masked_frames: float | None = flag('--masked-frames', read=number(float, 0, 1), metavar='SHARE',
                                       commands=(TRAIN, *LIFTING), help='share of the frames of a window that are '
                                       'hidden, for a model that learns to tell what is hidden')
    masked_keypoints: int | None = flag('--masked-keypoints', read=number(int, 0, 1_000), metavar='N',
                                        commands=(TRAIN, *LIFTING), help='keypoints of each frame that are hidden')
    dense: bool | None = flag('--dense', kind='yes', commands=(TRAIN, *LIFTING),
                              help='wide convolutions in place of dilated ones')
    causal: bool | None = flag('--causal', kind='yes', commands=(TRAIN, EVALUATE, PREDICT, EXPORT_MODEL),
                               help='train a model that reads nothing after the frame it answers for, where it can be '
                               'one; with --evaluate and --predict, take the last frame of a window that ends at it, '
                               'as live footage has to, and say how long one frame takes')
    refine: bool | None = flag('--refine', kind='yes', commands=(TRAIN, EVALUATE, RENDER), help='put a refinement '
                               'behind the trained model of --init and train both; it reads the camera and the true '
                               'depth of the root')
    diffusion: bool | None = flag('--diffusion', kind='yes', excludes=('refine',), commands=(TRAIN, *LIFTING),
                                  help='train the model as a denoiser, which makes several hypotheses of each pose')
    confidence: bool | None = flag('--read-confidence', kind='yes', commands=(TRAIN, *LIFTING), help='a model that '
                                   "reads the detector's confidence beside each keypoint")
    refinement: str | None = flag('--refinement', read=text, metavar='FILE', commands=(EVALUATE, RENDER), help='the '
                                  'public file of a refinement behind the public file of --evaluate')

    def sizes(self) -> dict[str, Any]:
        """Return the sizes that the command line gave, by their name in a model's Config."""
        return {f.name: getattr(self, f.name) for f in fields(self)
                if f.name not in ('model', 'size', 'refine', 'diffusion', 'refinement')
                and getattr(self, f.name) is not None}


@dataclass(frozen=True)
class Train:
    """training"""

    recipe: str = flag('--recipe', default=PUBLISHED, choices=(PUBLISHED, *RECIPES), stored=True, commands=(TRAIN,),
                       excludes=('refine',), help="values for flags that are not given, by name: the model's "
                       'publication, what was best in a search, the same in a quarter of the epochs, or lifter, the '
                       'training of the shipped lifter')
    epochs: int = flag('-e', '--epochs', read=count, metavar='N', stored=True, commands=(TRAIN,),
                       help='train up to this epoch')
    batch: int = flag('-b', '--batch', read=count, metavar='N', stored=True, commands=(TRAIN,),
                      help='predicted frames of a step: a step is max(1, N // stride) windows')
    stride: int = flag('-s', '--stride', read=count, metavar='N', stored=True, commands=(TRAIN,),
                       help='what -b is divided by, and the frames that a window answers for where these can be any '
                       'number (default: the frames that a window answers for, at most 128 or as published)')
    optimizer: str = flag('--optimizer', choices=('adamw', 'adam', 'amsgrad'), stored=True, commands=(TRAIN,),
                          help='AdamW, Adam, or Adam with amsgrad')
    lr: float = flag('-lr', '--learning-rate', read=positive, metavar='X', stored=True, commands=(TRAIN,),
                     help='learning rate')
    lr_decay: float = flag('-lrd', '--lr-decay', read=positive, metavar='X', stored=True, commands=(TRAIN,),
                           help='factor of the rate after each epoch')
    lr_decay_steps: int = flag('--lr-decay-steps', default=0, read=number(int, 0), metavar='N', stored=True,
                               commands=(TRAIN,), help='apply -lrd after every N steps instead; 0 for after each epoch')
    lr_drop_every: int = flag('--lr-drop-every', read=number(int, 0), metavar='N', stored=True, commands=(TRAIN,),
                              help='multiply the rate by --lr-drop after every N-th epoch instead; 0 for never')
    lr_drop: float = flag('--lr-drop', default=0.5, read=positive, metavar='X', stored=True, commands=(TRAIN,),
                          help='factor of the rate after every N-th epoch of --lr-drop-every')
    weight_decay: float = flag('--weight-decay', read=number(float, 0), metavar='X', stored=True, commands=(TRAIN,),
                               help='weight decay')
    drop_path: float | None = flag('--drop-path', read=number(float, 0, 0.99), metavar='X', stored=True,
                                   commands=(TRAIN,), help='rate of stochastic depth in the last blocks')
    dropout: float | None = flag('--dropout', read=number(float, 0, 0.99), metavar='X', stored=True,
                                 commands=(TRAIN,), help='rate at which single values are dropped')
    loss: str = flag('--loss', choices=('weighted', 'mpjpe', 'mse', 'motion'), stored=True, commands=(TRAIN,),
                     help='weighted MPJPE with two terms on velocities, plain MPJPE, the mean square of coordinates, '
                     'or MPJPE + 0.5 N-MPJPE + 20 MPJVE')
    l1_share: float = flag('--l1-share', default=0.0, read=number(float, 0, 1), metavar='X', stored=True,
                           commands=(TRAIN,), help='weight of the mean absolute coordinate in the loss, beside 1 - X '
                           'of --loss')
    objective: str = flag('--objective', choices=('half-square', 'plain'), stored=True, commands=(TRAIN,),
                          help='minimise half the square of the loss, as the published code of KTPFormer does, or the '
                          'loss')
    augment: bool = flag('--data-augmentation', '-no-da', '--no-data-augmentation', default=True, kind='either',
                         stored=True, commands=(TRAIN,), help='train on mirrored windows too, or not (default: as the '
                         'model was published)')
    seed: int = flag('--seed', read=number(int, 0, 2**32 - 1), metavar='N', stored=True, commands=(TRAIN,),
                     help='the seed of weights, window order and dropout')
    eval: bool = flag('--eval', '--no-eval', default=True, kind='either', stored=True, commands=(TRAIN,),
                      help='--no-eval: do not look at the test subjects, so no validation, no best.bin and no closing '
                      'table; --eval: do, when a --no-eval run is resumed')
    resume: str | None = flag('-r', '--resume', read=text, nargs='?', const='last.bin', metavar='FILE', starts=True,
                              commands=(TRAIN,), help='continue a checkpoint, looked up in -c, then as a path '
                              '(last.bin when no file is named)')
    init: str | None = flag('--init', read=text, metavar='FILE', excludes=('resume',), starts=True, commands=(TRAIN,),
                            help='start at epoch 1 from the weights of a checkpoint')
    checkpoint_frequency: int | None = flag('-cf', '--checkpoint-frequency', read=count, metavar='N', stored=True,
                                            commands=(TRAIN,), help='also keep epoch_N.bin every N epochs')
    save_every_steps: int | None = flag('--save-every-steps', read=count, metavar='N', stored=True, commands=(TRAIN,),
                                        help='also save last.bin every N steps inside an epoch')
    overwrite: bool = flag('--overwrite', default=False, kind='yes', commands=(TRAIN,),
                           help="train into a -c with another run's last.bin")
    dry_run: bool = flag('--dry-run', default=False, kind='yes', commands=(TRAIN,), help='set everything up, time a '
                         'few steps and test windows, say what the run would take in time, memory and disk space, and '
                         'write nothing')
    schedule: str = flag('--schedule', default='exp', choices=('exp', 'cosine'), stored=True, commands=(TRAIN,),
                         help='of the learning rate: -lrd per epoch, or cosine to 0')
    warmup: int = flag('--warmup', default=0, read=number(int, 0), metavar='N', stored=True, commands=(TRAIN,),
                       help='steps over which the rate rises')
    clip: float | None = flag('--clip', read=positive, metavar='X', stored=True, commands=(TRAIN,),
                              help='largest norm of the gradient (default: no limit)')
    ema: float | None = flag('--ema', read=number(float, 0, 0.999999, low_included=False), metavar='X', stored=True,
                             commands=(TRAIN,), help='evaluate and save a moving average of weights and buffers with '
                             'this decay, such as 0.999 (default: none)')
    window_step: int | None = flag('--window-step', read=count, metavar='N', stored=True, commands=(TRAIN,),
                                   help='frames from one training window to the next (default: as many as a window '
                                   'answers for, so that windows do not overlap, or as published)')
    subjects_valid: tuple[str, ...] | None = flag(
        '--subjects-valid', read=names_of, metavar='A,B', stored=True, needs='eval', commands=(TRAIN,),
        help='pick the best epoch on these, who are taken out of the default training subjects (default: the test '
        'subjects)')
    eval_train: bool = flag('--eval-train', default=False, kind='yes', stored=True, commands=(TRAIN,),
                            help='log the error on the training subjects too')
    select: str = flag('--select', default='best', choices=('best', 'last'), stored=True, needs='eval',
                       commands=(TRAIN,), help='the checkpoint of the closing table')
    export_training_curves: bool = flag('--export-training-curves', default=False, kind='yes', commands=(TRAIN,),
                                        help='draw curves.png into the run folder')
    unlabelled: tuple[str, ...] | None = flag(
        '--unlabelled', read=names_of, metavar='A,B', stored=True, excludes=('refine',), commands=(TRAIN,),
        help='learn from the 2D of these subjects too, where the model can; their 3D is not read, and they are taken '
        'out of the default training subjects (default: none)')
    warmup_epochs: int = flag('--warmup-epochs', default=1, read=number(int, 0), metavar='N', stored=True,
                              commands=(TRAIN,), help='epochs before the subjects of --unlabelled join in')

    @property
    def windows(self) -> int:
        """Return how many windows a step has."""
        return max(1, self.batch // self.stride)


@dataclass(frozen=True)
class Evaluate:
    """evaluation"""

    evaluate: str | None = flag('--evaluate', read=text, metavar='FILE', starts=True, commands=LIFTING,
                                help='only evaluate a checkpoint, looked up in -c, then as a path')
    protocol: str | None = flag('--protocol', choices=('paper', 'exact', '2.5d'), needs='eval',
                                commands=(TRAIN, EVALUATE), help='what the table shows: every frame of every window, '
                                'as published numbers have it (default), or every real frame once; 2.5d is the only '
                                'one of motion3d, and of no other data set')
    root: str = flag('--root', choices=ROOTS, stored=True, commands=(TRAIN, *LIFTING),
                     help="at test, take the predicted root as it is, set it to 0, or subtract it from all joints "
                     "(default: as the data set's own test has it, else as the model's recipe)")
    flip: bool = flag('--test-time-augmentation', '-no-tta', '--no-test-time-augmentation', default=True, kind='either',
                      stored=True, commands=(TRAIN, *LIFTING), help='lift mirrored keypoints too and average, or not '
                      '(default: as the model was published)')
    target: str | None = flag('--target', choices=('centre', 'all', 'overlap'), needs='eval', excludes=('causal',),
                              commands=(TRAIN, EVALUATE), help='the table of the mean of windows that overlap, each '
                              'frame once (overlap), or for 3dhp of a window around each frame that counts, as '
                              'published numbers have it (default: centre), or of windows back to back (all)')
    overlap: int | None = flag('--overlap', read=number(int, 0), metavar='N', needs='eval', excludes=('causal',),
                               commands=(TRAIN, EVALUATE, PREDICT), help='frames that neighbouring windows share and '
                               'blend, in --predict and --target overlap (default a quarter of a window)')
    hypotheses: int | None = flag('--hypotheses', read=number(int, 1, 1000), metavar='P', needs='eval',
                                  commands=(TRAIN, *COMPUTING), help='of each pose, for a model trained with '
                                  '--diffusion (default 5)')
    iterations: int | None = flag('--iterations', read=number(int, 1, 1000), metavar='K', needs='eval',
                                  commands=(TRAIN, *COMPUTING), help='in which noise becomes a hypothesis '
                                  '(default 5), at P times K passes of the model, twice that with mirroring')
    by_iteration: bool = flag('--by-iteration', default=False, kind='yes', needs='eval', commands=(TRAIN, EVALUATE),
                              help='also the figures after each iteration')
    windows_per_choice: int | None = flag('--windows-per-choice', read=count, metavar='N', needs='eval',
                                          commands=(TRAIN, EVALUATE), help='windows of a sequence for which P-Best '
                                          'takes one hypothesis: fewer give a lower figure (default 4, as published)')
    by_subject: bool = flag('--by-subject', default=False, kind='yes', needs='eval', commands=(TRAIN, EVALUATE),
                            help='also a table for each test subject')
    results: str | None = flag('--results', read=text, metavar='FILE', needs='eval', commands=(TRAIN, EVALUATE),
                               help='write the figures of both protocols as JSON')
    export_predictions: str | None = flag(
        '--export-predictions', read=file_ending('.npz', '.mat'), metavar='FILE.npz', needs='eval',
        commands=(TRAIN, EVALUATE), help='write prediction and truth of each test frame; FILE.mat, of 3dhp, in the '
        'layout of its test script')
    plots: str | None = flag('--plots', read=text, metavar='DIR', needs='eval', commands=(TRAIN, EVALUATE),
                             help='draw the errors into a folder: by action, by joint, over time in the worst '
                             'sequences, and the share of joints within 0 to 150 mm')


@dataclass(frozen=True)
class Render:
    """rendering"""

    render: bool = flag('--render', default=False, kind='yes', commands=(RENDER, PREDICT), help='draw one sequence, '
                        'lifted by the checkpoint of --evaluate, instead of its table; every --viz flag belongs to it')
    subject: str | None = flag('--viz-subject', read=text, metavar='NAME', commands=(RENDER,),
                               help='(default: the first test subject)')
    action: str | None = flag('--viz-action', read=text, metavar='NAME', commands=(RENDER,), help='a take by its whole '
                              'name, such as "Walking 1", or an unambiguous prefix (default: the first)')
    camera: int = flag('--viz-camera', default=0, read=number(int, 0), metavar='N', commands=(RENDER,),
                       help='counted from 0')
    output: tuple[str, ...] | None = flag(
        '--viz-output', read=files_ending('.gif', '.mp4', '.png', '.html'), metavar='A,B',
        commands=(RENDER, PREDICT), help='the film, or several: .gif, .mp4 (needs PyAV), .png, five moments one below '
        'the other, or .html, a page that turns and plays')
    export: str | None = flag('--viz-export', read=file_ending('.npy', '.npz'), metavar='FILE', commands=(RENDER,),
                              help='the predicted 3D of all frames, (frames, joints, 3) metres in camera axes, '
                              'relative to the root: .npy, or .npz with joints and axes named')
    compare: str | None = flag('--viz-compare', read=text, metavar='FILE', needs='output', commands=(RENDER,),
                               help='a second checkpoint, drawn beside the first')
    truth: bool = flag('--viz-no-ground-truth', default=True, kind='no', needs='output', commands=(RENDER,),
                       help='leave the truth and the error out')
    video: str | None = flag('--viz-video', read=text, metavar='FILE', needs='output', commands=(RENDER, PREDICT),
                             help='the video, drawn behind the 2D input (needs PyAV)')
    skip: int = flag('--viz-skip', default=0, read=number(int, 0), metavar='N', needs='video',
                     commands=(RENDER, PREDICT), help='frames of the video before the first of the keypoints (default '
                     '0, or the number that the file of --predict gives that one)')
    limit: int | None = flag('--viz-limit', read=count, metavar='N', needs='output', commands=(RENDER, PREDICT),
                             help='draw the first N frames only')
    step: int = flag('--viz-downsample', default=1, read=count, metavar='N', needs='output',
                     commands=(RENDER, PREDICT), help='draw every N-th frame only, at the speed of life')
    size: float = flag('--viz-size', default=4.0, read=number(float, 1, 20), metavar='X', needs='output',
                       commands=(RENDER, PREDICT), help='height of the film, and width of each panel, in units of 100 '
                       'pixels')
    bitrate: int | None = flag('--viz-bitrate', read=count, metavar='N', needs='output', commands=(RENDER, PREDICT),
                               help='of an MP4, kilobits a second (default 3000)')


@dataclass(frozen=True)
class Run:
    """run"""

    checkpoint: str = flag('-c', '--checkpoint', default='checkpoint', read=text, metavar='DIR',
                           commands=(TRAIN, *LIFTING, INSPECT), help='folder of checkpoints')
    log: str = flag('-l', '--log', default='log', read=text, metavar='DIR', commands=(TRAIN,),
                    help='parent of the run folders')
    precision: str | None = flag('--precision', choices=PRECISIONS, stored=True, commands=(TRAIN, EVALUATE, PREDICT),
                                 help='of tokens and matrix products; weights, loss and metrics stay fp32 (default: '
                                 'training in tf32 on CUDA, all else in fp32)')
    compile: bool = flag('--compile', '--no-compile', default=False, kind='either', stored=True,
                         commands=(TRAIN, EVALUATE, PREDICT),
                         help='compile the model with torch.compile: minutes at the start, faster steps')
    activation_checkpointing: bool = flag(
        '--activation-checkpointing', '--no-activation-checkpointing', default=False, kind='either', stored=True,
        commands=(TRAIN,), help='train in less memory and more time: compute what lies inside blocks again on the way '
        'back')
    inspect: str | None = flag('--inspect', read=text, metavar='FILE', starts=True, commands=(INSPECT,),
                               help='say what a checkpoint is')
    export_model: str | None = flag('--export-model', read=file_ending('.onnx', '.pt2'), metavar='FILE', starts=True,
                                    commands=(EXPORT_MODEL,), help='write the model of --evaluate, or the shipped one, '
                                    'for programs without this one: .onnx, or .pt2 for torch.export.load')
    models: bool = flag('--models', default=False, kind='yes', starts=True, commands=(LIST_MODELS,), help='list the '
                        'models: what they read, their size and their published figures')
    deterministic: bool = flag('--deterministic', default=False, kind='yes', commands=(TRAIN, *COMPUTING),
                               help='bit-identical runs on CUDA too, slower')
    device: str = flag('--device', default='auto', choices=('auto', 'cpu', 'cuda'), commands=(TRAIN, *COMPUTING),
                       help='auto is cuda where there is one')


@dataclass(frozen=True)
class Config:
    """One command line, typed.

    Attributes:
        given: names of the fields that the command line gave, as `section.field`.
        argv: the command line, for run folders and files of predictions.
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    render: Render = field(default_factory=Render)
    predict: Predict = field(default_factory=Predict)
    run: Run = field(default_factory=Run)
    given: frozenset[str] = frozenset()
    argv: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """Return the command that the flags ask for."""
        asked = {CHECK_DATA: self.data.check_data, INSPECT: self.run.inspect,
                 LIST_MODELS: self.run.models, EXPORT_MODEL: self.run.export_model, PREDICT: self.predict.predict,
                 RENDER: self.render.render, EVALUATE: self.evaluate.evaluate}
        return next((command for command, value in asked.items() if value), TRAIN)

    def has(self, name: str) -> bool:
        """Return True if the command line gave the field called `section.field`."""
        return name in self.given

    def value(self, name: str) -> Any:
        """Return the value of the field called `section.field`."""
        section, _, field_name = name.partition('.')
        return getattr(getattr(self, section), field_name)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint stores of a run: field -> value, JSON's kinds alone."""
        return {name: getattr(getattr(self, section), name) for section, name, flag in all_flags() if flag.stored}


SECTIONS: dict[str, type[Any]] = {'data': Data, 'model': Model, 'train': Train, 'evaluate': Evaluate,
                                  'render': Render, 'predict': Predict, 'run': Run}


def all_flags() -> list[tuple[str, str, Flag]]:
    """Return (section, field, flag) of every flag, in the order of the help."""
    return [(section, f.name, f.metadata['flag']) for section, kind in SECTIONS.items() for f in fields(kind)]


def flag_of(section: str, name: str) -> Flag:
    """Return the flag of a field."""
    return SECTIONS[section].__dataclass_fields__[name].metadata['flag']
