"""The tables of a job file: what the job trains, how, on whom, and when it ends."""

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.messages.schedule import Constant, Schedule
from broker.messages.update_forms import UpdateForm
from broker.support.validation import AtLeastOne, NotNegative, Positive

Share = Annotated[float, Meta(gt=0, le=1)]
Part = Annotated[float, Meta(ge=0, lt=1)]
Direction = Literal["max", "min"]

QUORUM_RULE = "a share of cohort.clients, above 0 and up to 1, or a whole number from 2"
_QUORUM_SCHEMA = {"allOf": [{"anyOf": [{"type": "integer"}, {"maximum": 1}]}]}
Quorum = Annotated[AtLeastOne | Positive, Meta(description=QUORUM_RULE, extra_json_schema=_QUORUM_SCHEMA)]
"""JSON does not distinguish 1 from 1.0 (RFC 8259, section 6), so the value decides: a share up to 1, clients from 2."""

LEARNING_RATES = {"sgd": 0.1, "adam": 1e-3, "nadam": 1e-3}
"""Default learning rate of the paper's optimizers: its grid search (section 4.2)."""

PIXELS = {"digits": 8, "mnist": 28}
"""Width (and height) of the built-in datasets' images."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the job file's tables. Programs forward them to each other, so only `from_dict` reads them strictly."""


class Model(Section, frozen=True):
    """The model to train.

    Attributes:
        type: `nn` or `cnn` (paper, section 4.1), or a class or function of the user's as
            `package.module:Name`.
        args: keyword arguments of its constructor; for `nn` and `cnn`, a built-in dataset gives the input size.
        code: SHA-256 digest of the user's code, 64 hexadecimal digits; empty: the server sets it when the job begins,
            from the code that it was started with.
        start: `from` in files and messages: the weights to start from. A URL of a safetensors file at the server
            (`file://...`), `job:<id>` (that job's best model, or its last one) or `job:<id>@<round>`. Tensors of the
            same name and shape are taken, the others keep their initial values. Empty: initial values.
        personal: patterns of names (Python's `fnmatch`) of tensors that never leave a client: each keeps its own.
        frozen: `send` publishes the tensors that no client trains once; `site` never sends them: each client's own
            construction of the model makes them, and must make the same ones.
        keep_every: keep every n-th round's model; 0: only the last one, and the best one if `evaluation.best` is set.
    """

    type: str = "nn"
    args: dict[str, Any] = {}
    code: str = ""
    start: str = msgspec.field(default="", name="from")
    personal: tuple[str, ...] = ()
    frozen: Literal["send", "site"] = "send"
    keep_every: NotNegative = 0


class Learner(Section, frozen=True):
    """A class of the user's that says how to learn: its model, data, loss, metrics, optimizer, loop; each optional.

    Attributes:
        type: the class as `package.module:Name`; empty: `model.type`, learned with supervision as `training` says.
        args: keyword arguments of its constructor.
    """

    type: str = ""
    args: dict[str, Any] = {}


class Training(Section, frozen=True):
    """How each client trains in a round; the names are those of the paper's Listing 1.

    Attributes:
        optimizer: a class of `torch.optim` by its name, in any case: `sgd`, `adam` and `nadam` are the paper's.
        optimizer_args: further arguments of that class: `{weight_decay = 0.01}`.
        learning_rate: None: the paper's learning rate for its optimizers; for the others, torch's default.
        batch_size: examples per step.
        local_epochs: passes over the client's data per round.
        optimizer_state: `carry` starts with the optimizer state at the end of the client's last counted round (paper,
            section 3.3); `reset` starts every round with a fresh one.
        dry: send noise of an update's size, without training; measures the cost of the fabric alone.
        update: what an update holds: `delta`, the change since the round's model; `bf16`, `fp16` or `int8`, the same
            with the weights' changes rounded to 2 bytes, or about 1, per value; or `weights`, the trained tensors.
        headroom: by how many bits a tensor may grow beyond the round's model before an update is refused, by the
            tensor's name; `*` stands for any text in a name (Python's `fnmatch`).
        loss: `cross_entropy`, `bce_with_logits`, `mse`, `l1`, `huber`, or a function of the user's as
            `package.module:function`, called with the model's output and the targets.
        loss_args: further arguments of the loss: `{weight = [1.0, 5.0], label_smoothing = 0.1}`.
        schedule: factor of the learning rate in each round.
        scheduler: a class of `torch.optim.lr_scheduler` that changes the learning rate within a round, after each step;
            empty: none. It begins anew in each round.
        scheduler_args: its arguments. `T_max`, `total_steps` and `total_iters` are the round's steps by default.
        clip_norm: the gradients' total norm is at most this before each step; None: not clipped.
        clip_value: each gradient's magnitude is at most this before each step; None: not clipped.
        order: order of the examples: `shuffle`, new in each epoch; `sequential`, as they lie there; `balanced`, drawn
            with replacement so that all labels are equally frequent.
        drop_last: leave out an epoch's last batch if it is smaller than the others.
        precision: dtype of the forward pass on devices that have it (torch's autocast); `full`: the model's own.
        compile: compile the model with `torch.compile`.
        device: torch's name of the device, where the site sets none; empty: `cpu`.
    """

    optimizer: str = "adam"
    optimizer_args: dict[str, Any] = {}
    learning_rate: Positive | None = None
    batch_size: AtLeastOne = 10
    local_epochs: AtLeastOne = 5
    optimizer_state: Literal["carry", "reset"] = "carry"
    dry: bool = False
    update: UpdateForm = "delta"
    headroom: dict[str, Annotated[int, Meta(ge=0, le=40)]] = {}
    loss: str = "cross_entropy"
    loss_args: dict[str, Any] = {}
    schedule: Schedule = Constant()
    scheduler: str = ""
    scheduler_args: dict[str, Any] = {}
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    order: Literal["shuffle", "sequential", "balanced"] = "shuffle"
    drop_last: bool = False
    precision: Literal["full", "bfloat16", "float16"] = "full"
    compile: bool = False
    device: str = ""

    @property
    def rate(self) -> float | None:
        """The learning rate to use; None: the optimizer's own default."""
        return LEARNING_RATES.get(self.optimizer.lower()) if self.learning_rate is None else self.learning_rate


class Override(Section, frozen=True):
    """Training settings of some clients. Of several overrides that match a client, the later one wins.

    Attributes:
        where: what a client's labels must be. `platform` and `id` are those of the register; `site` is the platform's
            name unless the client has a label `site`. Empty: every client.
        batch_size: as in `training`; None: not changed.
        local_epochs: as in `training`; None: not changed.
        learning_rate: as in `training`; None: not changed. The job's schedule applies to it.
        device: as in `training`; None: not changed.
    """

    where: dict[str, str] = {}
    batch_size: AtLeastOne | None = None
    local_epochs: AtLeastOne | None = None
    learning_rate: Positive | None = None
    device: str | None = None


class Cohort(Section, frozen=True):
    """Which clients take part in a round, and when the round ends.

    Attributes:
        clients: number of clients per round.
        over_select: number of additional clients to invite.
        quorum: number of counted updates that a round needs: a share of `clients` (above 0, up to 1; 1 means all of
            them), or a number of clients, from 2.
        grace_s: time to wait for the other clients after the quorum, in seconds.
        deadline_s: time limit of a round, in seconds.
        max_attempts: how often a client's function is invoked in a round before the client is given up.
        on_failure: policy for a round that misses its quorum.
        max_failures: failed rounds in a row that end the job, if `on_failure` is `retry` or `skip`.
        wait_s: time to wait until enough clients are registered, in seconds.
        max_samples: updates that claim more samples are refused; so are those that claim more than the register says
            that the client has.
        presence: `required` invites only clients whose platform has a present bridge, and gives up the tasks of a
            bridge that is absent; `ignored` invites all registered clients, and waits for them until the deadline.
        where: what a client's labels must be to be invited. `platform` and `id` are those of the register; `site` is
            the platform's name unless the client has a label `site`.
        seed: seed of the draws of who trains and who judges in each round; None: the job's `seed`. With one value, jobs
            of other seeds, strategies or settings invite the same clients.
        draw: `own` draws each round's clients from a seed of that round; `numpy` draws them as programs do that call
            `numpy.random.seed(seed)` once, and `numpy.random.choice(n, size, replace=False)` in every round, with
            `clients` and `over_select` together as the size: numbers of the n clients that can take part, in the order
            of their ids. It repeats the cohorts of such a program while n is that program's number: with fewer clients,
            or one more, all draws are others. If n is not `data.clients`, the server's log says so.
    """

    clients: AtLeastOne = 10
    over_select: NotNegative = 0
    quorum: Quorum = 1.0
    grace_s: Annotated[float, Meta(ge=0)] = 5.0
    deadline_s: Positive = 300.0
    max_attempts: AtLeastOne = 3
    on_failure: Literal["retry", "skip", "stop"] = "retry"
    max_failures: AtLeastOne = 3
    wait_s: Positive = 600.0
    max_samples: AtLeastOne = 100_000
    presence: Literal["required", "ignored"] = "required"
    where: dict[str, str] = {}
    seed: NotNegative | None = None
    draw: Literal["own", "numpy"] = "own"

    @property
    def invited(self) -> int:
        """Number of clients that get a task."""
        return self.clients + self.over_select

    @property
    def needed(self) -> int:
        """Number of counted updates that a round needs."""
        if self.quorum > 1:
            return int(self.quorum)
        # Rounded before the ceiling: 0.07 * 100 is slightly more than 7 in binary, and must not need 8 updates.
        return max(1, math.ceil(round(self.quorum * self.clients, 9)))


class Data(Section, frozen=True):
    """The data that the job trains on, and its partition among clients.

    Attributes:
        dataset: `digits`, `mnist`, or the name of data that only the clients have.
        partition: how a built-in dataset is split among clients: `shards` sorts it by label and gives each client
            `shards_per_client` of equal shards (paper, section 4.1), `iid` splits at random, `dirichlet` draws each
            client's share of each label from Dirichlet(`alpha`).
        clients: number of clients in the partition.
        shards_per_client: number of shards per client; for `shards`.
        alpha: similarity of the clients' data: the larger, the more similar; for `dirichlet`.
        seed: seed of the partition.
        min_samples: fewest samples that a client gets; for `dirichlet`.
        target: column that is predicted, in CSV and Parquet files; every other column becomes a feature.
        drop: columns of CSV and Parquet files that are left out.
        labels: names of the classes, where data has texts or folders as labels: the first one is label 0.
        format: format of the shards and of `evaluation.data`; empty: that of the file's ending, or of its first bytes.
    """

    dataset: str = "digits"
    partition: Literal["shards", "iid", "dirichlet"] = "shards"
    clients: AtLeastOne = 10
    shards_per_client: AtLeastOne = 2
    alpha: Positive = 0.5
    seed: NotNegative = 0
    min_samples: AtLeastOne = 1
    target: str = ""
    drop: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    format: Literal["", "safetensors", "npz", "csv", "parquet", "folder", "file"] = ""

    @property
    def key(self) -> str:
        """Key of the partition; the register labels each client of the partition with it."""
        names = {"shards": f"shards{self.shards_per_client}", "iid": "iid", "dirichlet": f"dir{self.alpha:.15g}"}
        floor = f"-m{self.min_samples}" if self.partition == "dirichlet" and self.min_samples > 1 else ""
        key = f"{self.dataset}-{names[self.partition]}{floor}-c{self.clients}-s{self.seed}"
        return key.replace(".", "p").replace("+", "")


class Evaluation(Section, frozen=True):
    """How the global model is judged: by the server on a test set, and by clients on data that they hold out.

    Attributes:
        every: the server evaluates every n-th round, and always the last one; 0: never.
        batch_size: samples per forward pass.
        data: URL of the server's test set, in any format of a shard; empty: that of a built-in dataset, or none.
        metrics: what to measure beside the loss: names such as `accuracy`, `top_5`, `f1`, `auroc`, `mae`, `r2`,
            `perplexity`, or classes of torchmetrics' kind as `package.module:Class`. Empty: what suits the loss.
        directions: whether more is better (`max`) or less (`min`), for metrics of the user's own.
        best: keep the model that is best by this metric; empty: none.
        holdout: share of its samples that each client does not train on and judges the global model with: first of all
            in each task, so that it costs no invocation, and the last model by a task of its own.
        clients: how many clients of those that do not train in a round judge its model by a task of their own: a share
            of the registered ones, or a number of clients, from 2.
    """

    every: NotNegative = 1
    batch_size: AtLeastOne = 1000
    data: str = ""
    metrics: tuple[str, ...] = ()
    directions: dict[str, Direction] = {}
    best: str = ""
    holdout: Part = 0.0
    clients: Annotated[float, Meta(ge=0)] = 0.0


class Stop(Section, frozen=True):
    """When the job ends.

    Attributes:
        rounds: maximum number of completed rounds.
        target_accuracy: test accuracy that ends the job early; None: the job never ends early.
        metric: the metric that `target` and `patience` look at; empty: `evaluation.best`, else `loss`. The server's
            evaluation decides where there is one, else the clients'.
        target: value of the metric that ends the job early; None: no value does.
        patience: number of evaluations in a row without a better value that end the job; 0: none do.
    """

    rounds: AtLeastOne = 20
    target_accuracy: Share | None = None
    metric: str = ""
    target: float | None = None
    patience: NotNegative = 0
