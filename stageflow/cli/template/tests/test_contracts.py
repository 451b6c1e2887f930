"""Each stage keeps its contract: it writes its outputs, can be cancelled, changes no input."""

from __future__ import annotations

from stageflow.testing import StageCase, StageContractTest

from newproject.turn import turn

from tests.cases import inputs, providers


class TestCustomer(StageContractTest):
    def make_stage(self) -> StageCase:
        """Look up a known customer, and one who is unknown."""
        others = {"user_id": "somebody else"}
        return StageCase(turn, "customer", inputs(), providers(), other_inputs=others)


class TestDraft(StageContractTest):
    cannot_fail = "it apologises when the model cannot be reached"

    def make_stage(self) -> StageCase:
        """Answer two questions."""
        others = {"text": "Where are you?"}
        return StageCase(turn, "draft", inputs(), providers(), other_inputs=others)


class TestAnswer(StageContractTest):
    def make_stage(self) -> StageCase:
        """Address two drafts to two customers."""
        given = {"customer": "Ada", "draft": "At nine."}
        others = {"customer": "Grace", "draft": "In the High Street."}
        return StageCase(turn, "answer", given, other_inputs=others)
