"""What fails at a bridge, for its presence. Pure."""

from dataclasses import dataclass, field
from typing import Literal

Part = Literal["platform", "broker"]


@dataclass
class Problems:
    """What fails, by the part that it fails at. A part that works again has no problem.

    Attributes:
        texts: the last failure of each part, as a sentence.
    """

    texts: dict[Part, str] = field(default_factory=dict)

    def note(self, part: Part, text: str) -> None:
        """Note a failure.

        Args:
            part: what fails.
            text: how, as a sentence.
        """
        self.texts[part] = text

    def clear(self, part: Part) -> None:
        """Note that a part works."""
        self.texts.pop(part, None)
