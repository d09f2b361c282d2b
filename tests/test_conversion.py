"""Shared parts of the converters: counts, the form of written files, and one-line errors."""

import numpy as np
import pytest
from raw_files import refusal

from common.errors import FileError, FlagError
from common.storage.npz import read_npz
from data import conversion


def test_other_counts_are_refused_unless_forced(capsys):
    conversion.check_counts({'a': 1, 'b': 2}, {'a': 1, 'b': 2}, force=False)
    for found, known, sentence in (({'a': 1}, {'a': 2}, 'a: 1, expected 2: '), ({}, {'a': 2}, 'a: none, expected 2: '),
                                   ({'a': 1}, {}, 'a: 1, expected none: '),
                                   ({'a': 1, 'b': 1, 'c': 3}, {'a': 2, 'b': 2, 'd': 1},
                                    r'a: 1, expected 2 \(and 3 more differences\): ')):
        with pytest.raises(FileError, match=sentence):
            conversion.check_counts(found, known, force=False)
        assert capsys.readouterr().err == ''
        conversion.check_counts(found, known, force=True)
        assert capsys.readouterr().err.startswith('warning: ')


FORM = {'a': {str: [('frames', 2), int]}, 'b': {'name': 'x', 'lists': [[1, 2]]}}


@pytest.mark.parametrize('value, sentence', [
    ({'a': {'k': [np.ones((3, 2)), 1], 'l': [np.ones((1, 2)), 2]}, 'b': {'name': 'x', 'lists': [[1, 2]]}}, None),
    ({'a': {}}, 'its a is dict, expected a dict that is not empty'),
    ({'b': {'name': 'x', 'lists': [[1, 2]]}}, "its: 'a' is not there"),
    ({'a': {1: [np.ones((3, 2)), 1]}}, 'its a: 1 is unexpected'),
    ({'a': {'k': [np.ones((3, 2))]}}, 'its a k is not a list of 2'),
    ({'a': {'k': [np.ones((3, 3)), 1]}}, r'its a k 0 is \(3, 3\) numbers, expected \(frames, 2\) numbers'),
    ({'a': {'k': [np.ones((0, 2)), 1]}}, r'its a k 0 is \(0, 2\) numbers'),
    ({'a': {'k': [np.full((1, 2), np.inf), 1]}}, 'its a k 0 holds NaN or infinite'),
    ({'a': {'k': [np.ones((3, 2)), 1.5]}}, 'its a k 1 is 1.5'),
    ({'a': {'k': [np.ones((1, 2)), 1]}, 'b': {'name': 'y', 'lists': [[1, 2]]}}, "its b name is 'y', expected 'x'"),
    ({'a': {'k': [np.ones((1, 2)), 1]}, 'b': {'name': 'x', 'lists': [[1, 3]]}}, 'its b lists 0 1 is 3, expected 2'),
    ({'a': {'k': [np.ones((1, 2)), 1]}, 'b': {'name': 'x', 'lists': [[1, 2]], 'more': 1}}, "'more' is unexpected"),
])
def test_another_form_is_refused_by_place(value, sentence):
    if sentence is None:
        conversion.check_form('its', value, FORM)
    else:
        with pytest.raises(FileError, match=sentence):
            conversion.check_form('its', value, FORM)


def test_data_of_another_form_are_not_written(tmp_path):
    path = tmp_path / 'new' / 'a.npz'
    conversion.write_checked(path, {'x': ('frames', 2)}, x=np.ones((3, 2)))
    with pytest.raises(FileError, match=r'a\.npz was not written: read back, its x is \(3, 3\) numbers'):
        conversion.write_checked(path, {'x': ('frames', 2)}, x=np.ones((3, 3)))
    assert read_npz(path)['x'].shape == (3, 2) and [p.name for p in path.parent.iterdir()] == ['a.npz']


@pytest.mark.parametrize('error, status, sentence', [
    (FileError('a file\nof two lines'), 1, 'a file of two lines'), (FlagError('a flag'), 2, 'a flag'),
    (PermissionError(13, 'Permission denied', 'a.mat'), 1, 'a.mat: Permission denied'),
    (MemoryError(), 1, 'does not fit in memory'), (KeyboardInterrupt(), 130, 'interrupted'),
])
def test_errors_are_one_line(capsys, error, status, sentence):
    def work(arguments):
        raise error

    def main(argv):
        return conversion.run(conversion.make_parser('prepare_data_x.py', 'x', 'a folder'), argv, work)
    refusal(capsys, main, 'folder', status=status, says=sentence)
