"""Progress events about one client in a round. Pure: messages in, events out."""

from broker.messages.invocation import Invocation
from broker.messages.job_record import Member
from broker.messages.progress import ClientFailed, ClientRefused, ClientRestored, ClientTraining, UpdateCounted
from broker.messages.round import Purpose
from broker.messages.update import UpdateHeader, checked_processor


def from_invocation(invocation: Invocation) -> ClientTraining | ClientRefused | ClientRestored | ClientFailed | None:
    """The event of an invocation's outcome; None for an outcome that is not announced."""
    round_, client, platform = invocation.round, invocation.client, invocation.platform
    attempt, reason = invocation.attempt, invocation.reason
    match invocation.outcome:
        case "running":
            return ClientTraining(
                round=round_,
                client=client,
                platform=platform,
                activation=invocation.activation,
                attempt=attempt,
                cold=invocation.cold,
            )
        case "refused":
            return ClientRefused(round=round_, client=client, platform=platform, attempt=attempt, reason=reason)
        case "restored":
            return ClientRestored(round=round_, client=client, platform=platform, attempt=attempt, reason=reason)
        case "failed" | "dead" | "expired":
            final = invocation.outcome != "failed"
            return ClientFailed(
                round=round_, client=client, platform=platform, attempt=attempt, reason=reason, final=final
            )
        case _:
            return None


def training_of(header: UpdateHeader, member: Member) -> ClientTraining:
    """The event of a training that no bridge has reported: the bridge ended before it could.

    Args:
        header: the metadata of the client's update.
        member: the client.
    """
    return ClientTraining(
        round=header.round,
        client=member.id,
        platform=member.platform,
        activation="",
        attempt=header.attempt,
        cold=None,
    )


def bridge_absent(member: Member, round_: int) -> ClientFailed:
    """The event of a client whose platform has no bridge any more.

    Args:
        member: the client.
        round_: number of the round that gives it up.
    """
    reason = f"no bridge of {member.platform} is there any more"
    return ClientFailed(round=round_, client=member.id, platform=member.platform, attempt=0, reason=reason, final=True)


def update_counted(header: UpdateHeader, counted: int, of: int, purpose: Purpose = "train") -> UpdateCounted:
    """The event of a counted update.

    Args:
        header: the update's metadata.
        counted: number of counted updates of the round's clients with the purpose, this one included.
        of: number of those clients.
        purpose: what the client was to do.
    """
    is_shown = header.metrics_scope == "client"
    return UpdateCounted(
        round=header.round,
        client=header.client,
        attempt=header.attempt,
        samples=header.samples if purpose == "train" else 0,
        counted=counted,
        of=of,
        trained_s=header.seconds.get("train", 0.0),
        metrics=header.metrics if is_shown else {},
        judged=header.judged,
        evaluation=header.evaluation if is_shown else {},
        purpose=purpose,
        processor=checked_processor(header.processor),
    )
