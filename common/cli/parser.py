"""The command line: flags, their groups, and every check that needs flags alone. Imports nothing else from common.

Short flags keep the names people know from VideoPose3D and KTPFormer. A flag that was not given is None here, so that a
checkpoint can speak for it; `fill` then puts the defaults in.
"""

import argparse
import math
import sys

DATASETS = ('h36m', 'humaneva15', 'humaneva20', '3dhp', 'cmu', 'synthetic', 'custom')
PRECISIONS = ('fp32', 'tf32', 'bf16')
LAYOUTS = ('auto', 'coco', 'h36m', 'halpe26', 'body25', 'body25b', 'mpii', '3dhp')
# What a run of any model starts from.
DEFAULTS = {
    'dataset': 'h36m', 'keypoints': None, 'subjects_train': None, 'subjects_test': None, 'actions': None,
    'downsample': 1, 'subset': 1.0, 'refine': False, 'stride': None, 'augment': True,
    'eval': True, 'checkpoint_frequency': None, 'subjects_valid': None, 'schedule': 'exp', 'warmup': 0, 'clip': None,
    'ema': None, 'window_step': None, 'save_every_steps': None, 'eval_train': False, 'select': 'best',
    'precision': None, 'compile': False, 'activation_checkpointing': False,
}
# What each model is and how it was trained for its publication. A flag that only some of them name is refused for the
# others.
RECIPES = {
    'ktpformer': {
        'frames': 243, 'channels': 512, 'depth': 7, 'heads': 8, 'kpa': True, 'tpa': True,
        'epochs': 200, 'batch': 1024, 'optimizer': 'adamw', 'lr': 8e-5, 'lr_decay': 0.99, 'lr_drop_every': 0,
        'weight_decay': 0.1, 'drop_path': 0.1, 'loss': 'weighted', 'objective': 'half-square', 'root': 'predicted',
        'seed': 1234},
    'htnet': {
        'frames': 1, 'channels': 240, 'depth': 3, 'heads': 8, 'hidden': 1024,
        'epochs': 15, 'batch': 512, 'optimizer': 'amsgrad', 'lr': 5e-4, 'lr_decay': 0.95, 'lr_drop_every': 5,
        'weight_decay': 0.0, 'drop_path': 0.3, 'dropout': 0.1, 'loss': 'mpjpe', 'objective': 'plain', 'root': 'zero',
        'seed': 1},
}
# What a data set's own protocol says otherwise than the model's recipe.
PROTOCOLS = {'3dhp': {'root': 'zero'}}
# What changes when a trained model is refined.
REFINEMENT = {'lr': 1e-5, 'loss': 'refinement', 'objective': 'plain', 'root': 'zero'}
# What a checkpoint repeats of a model, with the flag that says it.
CONFIG_FLAGS = {
    'ktpformer': {'frames': '-f', 'channels': '-cs', 'depth': '-dep', 'heads': '-num_heads', 'kpa': '--no-kpa',
                  'tpa': '--no-tpa'},
    'htnet': {'channels': '-cs', 'depth': '-dep', 'heads': '-num_heads', 'hidden': '--hidden'},
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, exit status 2."""

    def error(self, message):
        """One line, not the usage as well: the message says what to do."""
        self.exit(2, f'{self.prog}: error: {message}\n')


def _number(kind, low, high, low_included=True):
    """A converter that takes numbers of a kind from low to high, and says so otherwise."""
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (low <= value if low_included else low < value) and value <= high and value != math.inf:
            return value
        what = 'a whole number' if kind is int else 'a number'
        limits = f'{"of at least" if low_included else "above"} {low}' + ('' if high == math.inf else f' up to {high}')
        raise argparse.ArgumentTypeError(f'expected {what} {limits}, got {text}')
    return convert


_count = _number(int, 1, math.inf)
_positive = _number(float, 0, math.inf, low_included=False)


def _text(text):
    if not text:
        raise argparse.ArgumentTypeError('expected a name, got an empty text')
    return text


def _names(text):
    names = tuple(name.strip() for name in text.split(','))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f'expected different names separated by commas, got {text!r}')
    return names


def _actions(text):
    return () if text == '*' else _names(text)


def _defaults(name: str) -> str:
    """What a setting is for each model, for its help text."""
    values = {model: recipe[name] for model, recipe in RECIPES.items() if name in recipe}
    if len(values) == len(RECIPES) and len(set(values.values())) == 1:
        return f'default {next(iter(values.values()))}'
    return 'default ' + ', '.join(f'{value} for {model}' for model, value in values.items())


def make_parser() -> argparse.ArgumentParser:
    """The parser; flags not given are None (or False for those that ask for something to be done)."""
    parser = Parser(prog='run_ktpformer.py', allow_abbrev=False, description='Train and evaluate the lifting of 2D '
                    'human keypoints to 3D poses. Without a data set at hand, start with -d synthetic.')
    _add_data(parser.add_argument_group('data'))
    _add_model(parser.add_argument_group('model'))
    _add_training(parser.add_argument_group('training'))
    _add_more_training(parser.add_argument_group('training beyond the published recipe'))
    _add_evaluation(parser.add_argument_group('evaluation'))
    _add_render(parser.add_argument_group('rendering'))
    _add_prediction(parser.add_argument_group('your own keypoints'))
    _add_run(parser.add_argument_group('run'))
    return parser


def _add_data(group):
    add = group.add_argument
    add('-d', '--dataset', choices=DATASETS, help='data set (default h36m; synthetic needs no file)')
    add('-k', '--keypoints', type=_text, metavar='NAME', help='2D keypoints: data_2d_<dataset>_NAME.npz (default '
        'cpn_ft_h36m_dbb for h36m, noisy for cmu, gt for the others)')
    add('--data', default='data', type=_text, metavar='DIR', help='folder of the npz files (default data)')
    add('--check-data', action='store_true', help='only check the files of -d and -k: there, whole, joints in order, '
        'metres and pixels, left on the left; ends with OK or a list of problems')
    add('-str', '--subjects-train', type=_names, metavar='A,B', help="training subjects (default: the data set's)")
    add('-ste', '--subjects-test', type=_names, metavar='A,B', help="test subjects (default: the data set's)")
    add('-a', '--actions', type=_actions, metavar='A,B',
        help='actions, by name or unambiguous prefix (default * = all)')
    add('--downsample', type=_count, metavar='N', help='keep every N-th frame (default 1)')
    add('--subset', type=_number(float, 0, 1, low_included=False), metavar='FRACTION',
        help='keep this fraction of each training take, a stretch from its middle (default 1); with --evaluate, of '
        'each test take')


def _add_model(group):
    add = group.add_argument
    add('--model', choices=tuple(RECIPES), help='the model, whose published recipe the other defaults are (default '
        'ktpformer, or what a checkpoint says); HTNet sees single frames')
    add('-f', '--number-of-frames', dest='frames', type=_count, metavar='N',
        help=f'frames of a window ({_defaults("frames")})')
    add('-cs', '--channels', type=_count, metavar='N', help=f'channels of a token ({_defaults("channels")})')
    add('-dep', '--depth', type=_count, metavar='N', help='blocks of HTNet, pairs of blocks of KTPFormer after the two '
        f'with priors ({_defaults("depth")})')
    add('-num_heads', '--num-heads', dest='heads', type=_count, metavar='N',
        help=f'attention heads ({_defaults("heads")})')
    add('--hidden', type=_count, metavar='N', help=f'width of the MLPs ({_defaults("hidden")})')
    add('--no-kpa', dest='kpa', action='store_false', default=None,
        help='a linear embedding in place of the kinematics prior (KTPFormer)')
    add('--no-tpa', dest='tpa', action='store_false', default=None,
        help='nothing in place of the trajectory prior (KTPFormer)')
    add('--refine', action='store_true', default=None, help='put a refinement behind the trained model of --init and '
        'train both; it reads the camera and the true depth of the root')


def _add_training(group):
    add = group.add_argument
    add('-e', '--epochs', type=_count, metavar='N', help=f'train up to this epoch ({_defaults("epochs")})')
    add('-b', '--batch', type=_count, metavar='N', help='frames of a step: a step is max(1, N // stride) windows '
        f'({_defaults("batch")})')
    add('-s', '--stride', type=_count, metavar='N', help='what -b is divided by (default min(frames, 128))')
    add('--optimizer', choices=('adamw', 'amsgrad'), help=f'AdamW, or Adam with amsgrad ({_defaults("optimizer")})')
    add('-lr', '--learning-rate', dest='lr', type=_positive, metavar='X',
        help=f'learning rate ({_defaults("lr")}, {REFINEMENT["lr"]:g} with --refine)')
    add('-lrd', '--lr-decay', type=_positive, metavar='X',
        help=f'its factor after each epoch ({_defaults("lr_decay")})')
    add('--lr-drop-every', type=_number(int, 0, math.inf), metavar='N', help='halve it instead after every N-th epoch, '
        f'0 for never ({_defaults("lr_drop_every")})')
    add('--weight-decay', type=_number(float, 0, math.inf), metavar='X', help=f'({_defaults("weight_decay")})')
    add('--drop-path', type=_number(float, 0, 0.99), metavar='X',
        help=f'rate in the last blocks ({_defaults("drop_path")})')
    add('--dropout', type=_number(float, 0, 0.99), metavar='X', help=f'of single values ({_defaults("dropout")})')
    add('--loss', choices=('weighted', 'mpjpe'), help='weighted MPJPE with two terms on velocities, or plain MPJPE '
        f'({_defaults("loss")})')
    add('--objective', choices=('half-square', 'plain'), help='minimise half the square of the loss, as the published '
        f'code of KTPFormer does, or the loss ({_defaults("objective")})')
    add('-no-da', '--no-data-augmentation', dest='augment', action='store_false', default=None, help='no mirrored '
        'windows')
    add('--seed', type=_number(int, 0, 2**32 - 1), metavar='N', help='of weights, window order and dropout '
        f'({_defaults("seed")})')
    add('--eval', action='store_true', default=None, help='evaluate after all, when a --no-eval run is resumed')
    add('--no-eval', dest='eval', action='store_false', default=None, help='do not look at the test subjects: no '
        'validation, no best.bin, no closing table')
    add('-r', '--resume', type=_text, nargs='?', const='last.bin', metavar='FILE', help='continue a checkpoint, looked '
        'up in -c, then as a path (last.bin when no file is named)')
    add('--init', type=_text, metavar='FILE', help='start at epoch 1 from the weights of a checkpoint')
    add('-cf', '--checkpoint-frequency', type=_count, metavar='N', help='also keep epoch_N.bin every N epochs')
    add('--save-every-steps', type=_count, metavar='N', help='also save last.bin every N steps inside an epoch')
    add('--overwrite', action='store_true', help="train into a -c with another run's last.bin")


def _add_more_training(group):
    add = group.add_argument
    add('--schedule', choices=('exp', 'cosine'), help='of the learning rate: -lrd per epoch (default), or cosine to 0')
    add('--warmup', type=_number(int, 0, math.inf), metavar='N', help='steps over which the rate rises (default 0)')
    add('--clip', type=_positive, metavar='X', help='largest norm of the gradient (default: no limit)')
    add('--ema', type=_number(float, 0, 0.999999, low_included=False), metavar='X', help='evaluate and save a moving '
        'average of weights and buffers with this decay, such as 0.999 (default: none)')
    add('--window-step', type=_count, metavar='N', help='frames from one training window to the next (default: -f, '
        'windows that do not overlap)')
    add('--subjects-valid', type=_names, metavar='A,B', help='pick the best epoch on these instead of the test '
        'subjects; they are taken out of the default training subjects')
    add('--eval-train', action='store_true', default=None, help='log the error on the training subjects too')
    add('--select', choices=('best', 'last'), help='the checkpoint of the closing table (default best)')
    add('--export-training-curves', action='store_true', help='draw curves.png into the run folder')


def _add_evaluation(group):
    add = group.add_argument
    add('--evaluate', type=_text, metavar='FILE', help='only evaluate a checkpoint, looked up in -c, then as a path')
    add('--protocol', choices=('paper', 'exact'), help='what the table shows: every frame of every window, as '
        'published numbers have it (default), or every real frame once')
    add('--root', choices=('predicted', 'zero'), help='at test, take the predicted root as it is, or set it to 0 '
        f'({_defaults("root")}; zero for 3dhp and with a refinement)')
    add('--target', choices=('centre', 'all'), help='3dhp: the table of a window around each frame that counts, as '
        'published numbers have it (default), or of windows back to back')
    add('--causal', action='store_true', help='take the last frame of a window that ends at it, as live footage '
        'has to, and say how long one frame takes; with --predict too')
    add('--by-subject', action='store_true', help='also a table for each test subject')
    add('--results', type=_text, metavar='FILE', help='write the figures of both protocols as JSON')
    add('--export-predictions', type=_text, metavar='FILE.npz',
        help='write prediction and truth of each test frame; FILE.mat, of 3dhp, in the layout of its test script')
    add('--plots', type=_text, metavar='DIR', help='draw the errors into a folder: by action, by joint, over time in '
        'the worst sequences, and the share of joints within 0 to 150 mm')


def _add_render(group):
    add = group.add_argument
    add('--render', action='store_true', help='draw one sequence, lifted by the checkpoint of --evaluate, instead of '
        'its table; every --viz flag belongs to it')
    add('--viz-subject', type=_text, metavar='NAME', help='(default: the first test subject)')
    add('--viz-action', type=_text, metavar='NAME', help='a take by its whole name, such as "Walking 1", or an '
        'unambiguous prefix (default: the first)')
    add('--viz-camera', type=_number(int, 0, math.inf), metavar='N', help='counted from 0 (default 0)')
    add('--viz-output', type=_text, metavar='FILE', help='the film: .gif, .mp4 (needs PyAV), or .png, five '
        'moments one below the other')
    add('--viz-export', type=_text, metavar='FILE', help='the predicted 3D of all frames, (frames, joints, 3) metres '
        'in camera axes, relative to the root: .npy, or .npz with joints and axes named')
    add('--viz-compare', type=_text, metavar='FILE', help='a second checkpoint, drawn beside the first')
    add('--viz-no-ground-truth', action='store_true', default=None, help='leave the truth and the error out')
    add('--viz-video', type=_text, metavar='FILE', help='the video, drawn behind the 2D input (needs PyAV)')
    add('--viz-skip', type=_number(int, 0, math.inf), metavar='N', help='frames of the video before the first of the '
        'keypoints (default 0)')
    add('--viz-limit', type=_count, metavar='N', help='draw the first N frames only')
    add('--viz-downsample', type=_count, metavar='N', help='draw every N-th frame only, at the speed of life')
    add('--viz-size', type=_number(float, 1, 20), metavar='X', help='height of the film, and width of each panel, in '
        'units of 100 pixels (default 4)')
    add('--viz-bitrate', type=_count, metavar='N', help='of an MP4, kilobits a second (default 3000)')


def _add_prediction(group):
    add = group.add_argument
    add('--predict', type=_text, metavar='INPUT', help='lift 2D keypoints with the checkpoint of --evaluate: npz, npy, '
        'JSON of AlphaPose or MMPose, a folder of JSON of OpenPose')
    add('--output', type=_text, metavar='FILE.npz', help='where --predict writes poses in 3D')
    add('--csv', type=_text, metavar='FILE', help='also write them as a table, a line per frame')
    add('--layout', choices=LAYOUTS, help='the order of the keypoints (default auto: by their number, the kind of file '
        'and the lengths of bones)')
    add('--image-size', type=_positive, nargs=2, metavar=('W', 'H'), help='of the picture in pixels, where the file '
        'does not say')
    add('--fps', type=_positive, metavar='N', help="frames per second (default: the file's, or 30)")
    add('--person', type=_number(int, 0, math.inf), metavar='N', help="the file's own number of a person, else a rank "
        'by score, 1 the best (default: the most frequent number, or the best)')
    add('--min-score', type=_number(float, 0, math.inf), metavar='X', help='keypoints with less are interpolated in '
        'time (default 0.3; 0 for Detectron2)')
    add('--overlap', type=_number(int, 0, math.inf), metavar='N', help='frames that neighbouring windows share and '
        'blend (default a quarter of a window)')
    add('--zoom', type=_positive, metavar='X', help='scale the person in the picture by this (default: to the size of '
        'people trained on, where it is far from that)')
    add('--trajectory', action='store_true', help='estimate where the person stands, with the lens of --intrinsics or '
        '--fov; otherwise the feet are put on the floor')
    add('--intrinsics', type=_positive, nargs=4, metavar=('FX', 'FY', 'CX', 'CY'), help='of the lens, in pixels')
    add('--fov', type=_number(float, 0, 179, low_included=False), metavar='DEGREES', help='horizontal field of view')
    add('--as-is', action='store_true', help='do not refuse keypoints that look like a mistake')


def _add_run(group):
    add = group.add_argument
    add('-c', '--checkpoint', default='checkpoint', type=_text, metavar='DIR',
        help='folder of checkpoints (default checkpoint)')
    add('-l', '--log', default='log', type=_text, metavar='DIR', help='parent of the run folders (default log)')
    add('--precision', choices=PRECISIONS, help='of tokens and matrix products; weights, loss and metrics stay fp32 '
        '(default: training in tf32 on CUDA, all else in fp32)')
    add('--compile', action=argparse.BooleanOptionalAction, help='compile the model with torch.compile: minutes at the '
        'start, faster steps')
    add('--activation-checkpointing', action=argparse.BooleanOptionalAction, help='train in less memory and more time: '
        'compute what lies inside blocks again on the way back')
    add('--inspect', type=_text, metavar='FILE', help='say what a checkpoint is')
    add('--deterministic', action='store_true', help='bit-identical runs on CUDA too, slower')
    add('--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='auto is cuda where there is one (default)')


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags given, checked against each other. Ends the process with status 2 and one line where they clash."""
    parser = make_parser()
    _check_spaces(parser, sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.command = ['run_ktpformer.py', *(sys.argv[1:] if argv is None else argv)]
    for one, other in (('evaluate', 'resume'), ('evaluate', 'init'), ('resume', 'init'), ('inspect', 'evaluate'),
                       ('inspect', 'resume'), ('inspect', 'init'), ('check_data', 'evaluate'),
                       ('check_data', 'resume'), ('check_data', 'init'), ('check_data', 'inspect')):
        if getattr(args, one) and getattr(args, other):
            parser.error(f'--{one.replace("_", "-")} and --{other} exclude each other')
    if args.evaluate and args.eval is False:
        parser.error('--evaluate and --no-eval exclude each other')
    for flag in ('results', 'export_predictions', 'plots', 'protocol', 'target', 'by_subject', 'subjects_valid',
                 'select'):
        if args.eval is False and getattr(args, flag):
            parser.error(f'--{flag.replace("_", "-")} needs the evaluation that --no-eval leaves out')
    _check_render(parser, args)
    from_file = args.evaluate or args.resume or args.init or args.inspect
    if (args.model or not from_file) and (problem := misfit(args, args.model or 'ktpformer')):
        parser.error(problem)
    if args.refine and not from_file:
        parser.error('--refine needs a trained model to stand behind: name its checkpoint with --init FILE')
    if args.export_predictions and not args.export_predictions.endswith(('.npz', '.mat')):
        parser.error(f'--export-predictions {args.export_predictions}: expected a name that ends in .npz, or in .mat '
                     f'for 3dhp')
    _check_prediction(parser, args)
    return args


def _check_prediction(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Flags of --predict without it, and what it needs or cannot have beside it."""
    only_here = ('output', 'csv', 'layout', 'image_size', 'fps', 'person', 'min_score', 'overlap', 'zoom',
                 'trajectory', 'intrinsics', 'fov', 'as_is')
    need_truth = ('results', 'plots', 'export_predictions', 'protocol', 'target', 'by_subject', 'actions', 'downsample',
                  'subset')
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    for name in need_truth if args.predict else only_here:
        if name in given:
            means = 'a data set with the truth, which --predict does not have' if args.predict else \
                '--predict: say what to lift'
            parser.error(f'--{name.replace("_", "-")} is for {means}')
    lens = given & {'intrinsics', 'fov'}
    for wrong, message in (
            (args.causal and not args.evaluate, '--causal needs the checkpoint that --evaluate names'),
            (args.causal and args.target, f'--causal takes the last frame of each window, --target {args.target} '
             'another one: leave one out'),
            (args.causal and args.overlap is not None, '--causal takes one frame of each window, so that nothing '
             'overlaps: leave --overlap out'),
            (args.predict and not args.evaluate, '--predict needs --evaluate FILE, the checkpoint to lift with'),
            (args.predict and not (args.output or '').endswith('.npz'), '--predict needs --output FILE.npz'),
            (len(lens) > 1, '--intrinsics and --fov exclude each other: both describe the lens'),
            (args.trajectory and not lens, '--trajectory needs the lens: --intrinsics FX FY CX CY in pixels, or --fov '
             'DEGREES'),
            (lens and not args.trajectory, '--intrinsics and --fov are for --trajectory, which estimates where the '
             'person stands')):
        if wrong:
            parser.error(message)


def _check_render(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the process unless the flags of --render make sense together, and leave none without effect."""
    if args.dataset == 'custom' and not (args.render and args.evaluate and args.keypoints):
        parser.error('-d custom is 2D without 3D, which can only be drawn and exported: say -k NAME --evaluate FILE '
                     '--render')
    given = {name.replace('_', '-') for name, value in vars(args).items()
             if name.startswith('viz_') and value is not None}
    if not args.render:
        if given:
            parser.error(f'--{min(given)} needs --render')
        return
    if not args.evaluate:
        parser.error('--render needs the checkpoint that lifts: name it with --evaluate FILE')
    if args.causal and not args.predict:
        parser.error('--causal and --render exclude each other: a film shows what the whole window tells')
    if args.predict:
        alien = given & {f'viz-{name}' for name in ('subject', 'action', 'camera', 'export', 'compare',
                                                    'no-ground-truth')}
        if alien:
            parser.error(f'--{min(alien)} means nothing for --predict, which draws what it lifts')
    for name in ('results', 'export_predictions', 'plots', 'protocol', 'target', 'by_subject', 'subset', 'actions',
                 'subjects_test', *([] if args.predict else ['precision', 'compile'])):
        if getattr(args, name):
            parser.error(f'--{name.replace("_", "-")} and --render exclude each other: say what is drawn with '
                         f'--viz-subject, --viz-action and --viz-camera')
    _check_render_output(parser, args, given)


def _check_render_output(parser: argparse.ArgumentParser, args: argparse.Namespace, given: set[str]) -> None:
    if not (args.viz_output or args.viz_export):
        parser.error('--render needs --viz-output FILE or --viz-export FILE')
    alone = given & {f'viz-{name}' for name in ('compare', 'no-ground-truth', 'video', 'limit', 'downsample', 'size')}
    if alone and not args.viz_output:
        parser.error(f'--{min(alone)} needs --viz-output')
    if args.viz_skip is not None and not args.viz_video:
        parser.error('--viz-skip needs --viz-video')
    if args.viz_bitrate and not (args.viz_output or '').endswith('.mp4'):
        parser.error('--viz-bitrate needs a --viz-output that ends in .mp4')
    for flag, name, suffixes in (('output', args.viz_output, ('.gif', '.mp4', '.png')),
                                 ('export', args.viz_export, ('.npy', '.npz'))):
        if name and not name.endswith(suffixes):
            parser.error(f'--viz-{flag} {name}: expected a name that ends in {" or ".join(suffixes)}')


def _check_spaces(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Refuse `-lr1e-3`, which argparse would read as -l r1e-3."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for token in argv:
        for flag in flags:
            if flag[1] != '-' and len(flag) > 2 and token.startswith(flag) and token[len(flag):][:1].isdigit():
                parser.error(f'{token}: leave a space, {flag} {token[len(flag):]}')


def misfit(args: argparse.Namespace, model: str) -> str | None:
    """What of the flags given does not fit a model, in one sentence; None where they fit."""
    recipe = RECIPES[model]
    for name, flag in (('kpa', '--no-kpa'), ('tpa', '--no-tpa'), ('hidden', '--hidden'), ('dropout', '--dropout')):
        if getattr(args, name) is not None and name not in recipe:
            return f'{flag} is not for --model {model}: leave it out'
    if 'frames' not in CONFIG_FLAGS[model] and args.frames not in (None, recipe['frames']):
        return (f'-f {args.frames}: {model} lifts every frame by itself, so that more of them would change nothing; '
                f'leave -f out or take --model ktpformer')
    if args.evaluate or args.resume or args.init or args.inspect:
        return None  # the file says how many channels and heads
    channels, heads = args.channels or recipe['channels'], args.heads or recipe['heads']
    if channels % (heads if model == 'ktpformer' else 3 * heads):
        parts = 'among' if model == 'ktpformer' else 'by 3 and then among'
        return f'-cs {channels} channels cannot be divided {parts} -num_heads {heads}'
    return None
