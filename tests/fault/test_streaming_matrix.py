"""The fault matrix of a turn that streams: what runs is what a person has decided."""

from __future__ import annotations

import pytest

from tests.fault.streaming_matrix import SENTENCES, Key, decided, keys, played

pytestmark = pytest.mark.untraced

DECIDED = decided()
KEYS = list(keys())
#: How long the kernel waits for a failing provider, at most: the limit of its longest stage.
PATIENCE_MS = 300_000.0


def _text(said: int | str) -> str:
    return said if isinstance(said, str) else "".join(SENTENCES[:said])


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_turn_goes_as_decided(key: Key) -> None:
    """The code, the sentences that are heard, those that are kept, a letter if it failed."""
    provider, kind, when = key
    code, heard, kept = DECIDED[provider][when][kind]
    cell = played(*key)
    assert cell.code == code
    assert cell.heard == _text(heard)
    assert cell.kept.strip() == _text(kept).strip()
    assert cell.letter is bool(code)
    assert (cell.first_ms is None) is (not heard and provider != "speaker")
    assert cell.took_ms <= PATIENCE_MS + 1_000.0


def test_each_cell_is_decided_and_no_other() -> None:
    """Each fitting fault of each provider, at once, and midway where there is a middle."""
    written = {
        (p, k, w) for p, moments in DECIDED.items() for w, row in moments.items() for k in row
    }
    assert written == {(provider, str(kind), when) for provider, kind, when in KEYS}
