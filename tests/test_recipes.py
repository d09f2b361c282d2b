"""--recipe: values by name, between the command line, checkpoint and data set, and the published recipe."""

import subprocess
import sys

import pytest
import torch
from processes import ROOT

from benchmarks import augmentation, recipes
from common.cli.parser import parse
from common.models import make_config, model_class, recipe_of
from common.models.recipes import PUBLISHED, RECIPES, ByWidth, usual_model, values_of
from common.settings import in_flags, of_a_run, resolve
from common.storage.shipped import shipped_lifter

# The command of docs/lifter.md, but for the data.
COMMAND = ('--model videopose3d --downsample 2 -f 27 -cs 384 -b 1024 -s 32 --views random --noise detector --input '
           'coco --optimizer adamw -lr 2e-3 --schedule cosine --warmup 200 --dropout 0.05 -e 260')
ALL = [(name, model) for name, models in RECIPES.items() for model in models]
TINY = ['-d', 'synthetic', '-cs', '8', '--subset', '0.02', '--no-eval', '--device', 'cpu']


def decided(*flags):
    """Return the sizes of the model and the settings of a training with these flags, which name no checkpoint."""
    config = parse(list(flags))
    name = config.model.model or usual_model(config.train.recipe)
    named = values_of(config.train.recipe, name)
    own = model_class(name).Config.__dataclass_fields__
    sizes = make_config(name, {size: v for size, v in {**named, **config.model.sizes()}.items() if size in own})
    return name, sizes, resolve(config, recipe_of(name), 1, None, named).settings()


@pytest.mark.parametrize('name, model', ALL)
def test_values_are_what_flags_could_say(name, model):
    values, fields = values_of(name, model), [field for _, field, _ in of_a_run()]
    sizes = model_class(model).Config.__dataclass_fields__
    config = parse(['-d', 'synthetic', '--model', model, *in_flags(values).split()])
    for field, value in values.items():
        assert fields.count(field) == 1, field
        section = next(section for section, own, _ in of_a_run() if own == field)
        assert section != 'model' or field in sizes
        assert getattr(getattr(config, section), field) == value


def test_the_shipped_lifter_is_what_its_recipe_says():
    shipped = torch.load(shipped_lifter(), weights_only=True)
    model, sizes, settings = decided('-d', 'cmu', '--recipe', 'lifter')
    stored = shipped['settings']
    assert (model, vars(sizes)) == (shipped['model'], {k: tuple(v) if isinstance(v, list) else v
                                                       for k, v in shipped['config'].items()})
    assert settings | {'recipe': PUBLISHED} == {'recipe': PUBLISHED} | {k: stored[k] for k in settings if k in stored}


def test_a_recipe_is_its_flags():
    short, long = decided('-d', 'cmu', '--recipe', 'lifter'), decided('-d', 'cmu', *COMMAND.split())
    assert short[:2] == long[:2]
    assert short[2] == long[2] | {'recipe': 'lifter'}


def test_rates_are_for_a_width_and_fall_for_larger_ones():
    rate = ByWidth(4e-3, 64, 8e-5)
    assert [rate.at(channels) for channels in (8, 64, 128, 512, 192)] == [4e-3, 4e-3, 2e-3, 5e-4, 1.33e-3]
    # Not below the published rate, but for what was found to be lower than that.
    assert [ByWidth(4e-3, 64, 1e-3).at(channels) for channels in (64, 128, 512)] == [4e-3, 2e-3, 1e-3]
    assert [ByWidth(4e-3, 64, 5e-3).at(channels) for channels in (64, 512)] == [4e-3, 4e-3]
    for model, values in RECIPES['best'].items():
        if isinstance(values.get('lr'), ByWidth):
            assert values['lr'].published == recipe_of(model).lr, model
    found = next(value for value in RECIPES['best']['ktpformer'].values() if isinstance(value, ByWidth))
    assert values_of('best', 'ktpformer')['lr'] == found.rate
    assert values_of('best', 'ktpformer', 4 * found.channels)['lr'] == found.rate / 4


def test_a_recipe_is_read_without_importing_torch():
    """Which would start its threads before their number is limited, and take seconds to refuse a slip."""
    code = ("import sys; from common.cli.parser import parse; parse(['--recipe', 'best']); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_the_rate_of_a_run_is_that_of_its_width(run, tmp_path):
    """In what is said, and in what is stored."""
    found = RECIPES['best']['ktpformer']['lr']
    status, out, err = run('-d', 'synthetic', '-f', 9, '-cs', 2 * found.channels, '-dep', 1, '--subset', 0.02, '-e', 1,
                           '--no-eval', '--recipe', 'best', '-c', tmp_path, '-l', tmp_path / 'l', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert f'-lr {found.rate / 2:g}' in out.splitlines()[0]
    assert torch.load(tmp_path / 'last.bin', weights_only=True)['settings']['lr'] == found.rate / 2


def test_fast_is_best_in_a_quarter_of_the_published_epochs():
    assert RECIPES['fast'].keys() == RECIPES['best'].keys()
    for model, values in RECIPES['fast'].items():
        published = recipe_of(model).epochs
        assert values == {**RECIPES['best'][model], 'epochs': round(published / 4)}


def test_who_decides():
    """Command line, checkpoint, data set, recipe, published recipe, field: each before those after it."""
    recipe = recipe_of('ktpformer')
    named = {'lr': 1.0, 'epochs': 7, 'root': 'subtract', 'clip': 3.0, 'seed': 5}

    def of(*flags, saved=None):
        return resolve(parse(list(flags)), recipe, 27, saved, named)
    fresh = of('-d', 'cmu', '-lr', '2')
    assert (fresh.train.lr, fresh.train.epochs, fresh.evaluate.root, fresh.train.clip) == (2, 7, 'subtract', 3)
    assert (fresh.train.batch, fresh.train.warmup) == (recipe.batch, 0)  # the publication's, and the field's
    assert of('-d', '3dhp').evaluate.root == 'zero'  # the data set's own test
    assert of('-d', '3dhp', '--root', 'predicted').evaluate.root == 'predicted'
    saved = fresh.settings() | {'epochs': 9, 'root': 'zero'}
    resumed = of('--resume', '--clip', '4', saved=saved)
    assert (resumed.train.lr, resumed.train.epochs, resumed.train.clip) == (2, 9, 4)
    assert resumed.evaluate.root == 'zero'
    assert of('--resume', saved={'lr': 2.0}).train.epochs == 7  # of a file from before there was such a setting


def test_the_batch_of_a_recipe_counts_frames_for_models_published_in_windows():
    published = recipe_of('motionagformer')
    assert published.windows
    assert resolve(parse(['-d', 'cmu']), published, 9, None, {'batch': 54}).train.batch == 54


def test_a_run_by_its_recipe_is_the_run_by_its_flags(run, tmp_path):
    """Weights bit for bit; what the command line says is left out of what is said; resumed and inspected by name."""
    def train(name, *flags):
        status, out, err = run(*TINY, *flags, '-c', tmp_path / name, '-l', tmp_path / 'l')
        assert (status, err) == (0, '')
        return out
    assert train('short', '--recipe', 'lifter', '-e', 1).startswith(
        'recipe lifter: --downsample 2 --views random --input coco --noise detector -f 27 -b 1024 -s 32 --optimizer '
        'adamw -lr 0.002 --dropout 0.05 --schedule cosine --warmup 200\nVideoPose3D, 27 frames')
    assert 'recipe lifter' not in train('long', *COMMAND.replace('-cs 384 ', '').split(), '-e', 1)
    short, long = (torch.load(tmp_path / name / 'last.bin', weights_only=True) for name in ('short', 'long'))
    assert (short['settings']['recipe'], long['settings']['recipe']) == ('lifter', PUBLISHED)
    for key, value in long['model_pos'].items():
        assert torch.equal(short['model_pos'][key], value), key
    out = train('short', '-r', '--recipe', 'lifter', '-e', 2, '-lr', 1e-3)  # the same command again goes on
    assert 'recipe lifter: ' in out and '-lr' not in out.partition('recipe lifter')[2].splitlines()[0]
    assert torch.load(tmp_path / 'short' / 'last.bin', weights_only=True)['settings']['recipe'] == 'lifter'
    assert "'recipe': 'lifter'" in run('--inspect', tmp_path / 'short' / 'last.bin')[1]
    status, _, err = run(*TINY, '-c', tmp_path / 'short', '-l', tmp_path / 'l', '-r', '--recipe', 'best')
    assert status == 2 and 'goes on with the recipe lifter, by which it was begun' in err
    short['settings']['recipe'] = 'other'
    torch.save(short, tmp_path / 'short' / 'last.bin')
    status, _, err = run(*TINY, '-c', tmp_path / 'short', '-l', tmp_path / 'l', '-r')
    assert (status, err.count('\n')) == (1, 1) and 'its setting recipe is' in err


@pytest.mark.parametrize('flags, words', [
    (['--model', 'ktpformer'], '--recipe lifter is for --model videopose3d, not for ktpformer'),
    (['--unlabelled', 'S2'], '--views, which --recipe lifter says, and --unlabelled exclude each other'),
    (['-arc', '3,5'], '-arc 3,5, beside -f 27 -cs 384 of --recipe lifter: '),
    (['--refine', '--init', 'x.bin'], '--recipe and --refine exclude each other'),
    (['--evaluate', 'x.bin'], '--recipe is not for --evaluate'),
    (['--recipe', 'quick'], "invalid choice: 'quick' (choose from"),
    (['-f', '26'], '-f 26'),
], ids=' '.join)
def test_what_a_recipe_cannot_be_is_refused(refused, flags, words):
    assert words in refused(2, '-d', 'synthetic', '--recipe', 'lifter', *flags)


def test_a_recipe_is_not_for_the_checkpoint_of_another_model(refused, trained, tmp_path):
    assert '--recipe lifter is for --model videopose3d, not for ktpformer' in refused(
        2, *TINY[:2], '--recipe', 'lifter', '--init', trained[0] / 'best.bin', '-c', tmp_path / 'c')


def test_what_the_benchmarks_try_are_flags():
    """Variants are run for hours: a slip in the last one would be found at their end."""
    for model, variants in [*recipes.VARIANTS.items(), ('mixste', recipes.OTHERS)]:
        for flags in variants.values():
            assert parse(['--model', model, '-d', 'cmu', *flags]).model.model == model
    for variant in augmentation.VARIANTS:
        assert parse(augmentation.training_flags(variant, ['-e', '8'])).train.subjects_valid
