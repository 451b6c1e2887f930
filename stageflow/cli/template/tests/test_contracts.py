"""Each stage keeps what the engine relies on: outputs, cancellation, inputs left as they are."""

from __future__ import annotations

from stageflow.testing.contracts import StageCase, StageContractTest

from newproject.turn import turn

from tests.cases import inputs, providers


class TestCustomer(StageContractTest):
    def make_stage(self) -> StageCase:
        """The stage with a customer who is known, and with one who is not."""
        others = {"user_id": "somebody else"}
        return StageCase(turn, "customer", inputs(), providers(), other_inputs=others)


class TestDraft(StageContractTest):
    def make_stage(self) -> StageCase:
        """The stage with two questions."""
        others = {"text": "Where are you?"}
        return StageCase(turn, "draft", inputs(), providers(), other_inputs=others)


class TestAnswer(StageContractTest):
    def make_stage(self) -> StageCase:
        """The stage with two customers and two drafts."""
        given = {"name": "Ada", "draft": "At nine."}
        others = {"name": "Grace", "draft": "In the High Street."}
        return StageCase(turn, "answer", given, other_inputs=others)
