"""The ClientApp: reads the context, calls amgt_fed, answers."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from amgt_fed.codec import decode
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.client import ClientState, LocalResult, advance, client_round
from amgt_fed.federated.gradient import encode_gradient
from amgt_fed.federated.messages import NeedsModel, RoundPlan
from amgt_fed.federated.scaffold import scaffold_round
from amgt_fed.flower.records import pack, unpack
from amgt_fed.layout import Float32Vector
from amgt_fed.tasks import evaluate as evaluate_model
from amgt_fed.tasks import full_gradient, train_locally
from amgt_fed.wire import (
    Evaluation,
    Hello,
    decode_plan,
    decode_question,
    encode_evaluation,
    encode_hello,
    encode_needs_model,
    encode_update,
)

from .session import Session, client_number, compression_for, session_for, store_for

app = ClientApp()
app.amgt_parallel = True  # calls may overlap in one process: `reproducible` sees to their random numbers


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this client is, how much data it has, and which model of the run it holds."""
    session = session_for(context)
    client = client_number(context)
    run = decode_question(unpack(message.content), session.layout)
    state = store_for(context, client).load(run)
    answer = Hello(
        client=client,
        num_clients=int(context.node_config.get("num-partitions", session.setup.config.partition.num_clients)),
        num_examples=len(session.data(client)),  # type: ignore[arg-type]  # as in Task.partitions
        synced_round=1 if state is None else state.round,
        layout_digest=session.layout.digest,
    )
    return Message(pack(encode_hello(answer)), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Take part in one round."""
    session = session_for(context)
    config = session.setup.config
    torch.set_num_threads(config.client.threads)  # sums split over threads round differently
    client = client_number(context)
    store = store_for(context, client)
    plan = decode_plan(unpack(message.content), session.layout)
    state = store.load(plan.run) or session.fresh_state(plan.run)
    compression = compression_for(session, context, client)

    def local_training(start: Float32Vector, correction: Float32Vector | None = None) -> LocalResult:
        seed = _seed(config.seed, client, plan.round)
        settings = session.setup.local_settings(plan.round)
        model, data, task = session.model(), session.data(client), session.setup.task
        return session.reproducibly(
            lambda: train_locally(task, model, data, start, settings, seed, correction=correction), seed
        )

    if config.client.scaffold:
        answer, after = scaffold_round(plan, state, local_training, session.layout, compression)
    else:
        answer, after = client_round(plan, state, local_training, session.layout, compression)
    if isinstance(answer, NeedsModel):
        return Message(pack(encode_needs_model(answer)), reply_to=message)
    if compression.error_feedback or session.needs_steps or config.client.scaffold:
        # Before the answer leaves: a client cut off in between gives the same answer again when asked again.
        store.save(after)
    return Message(pack(encode_update(answer)), reply_to=message)


@app.train("gradient")
def gradient(message: Message, context: Context) -> Message:
    """Measure the gradient of this client's full objective, without local steps, at x_k or at the plan's probe."""
    session = session_for(context)
    config = session.setup.config
    torch.set_num_threads(config.client.threads)
    client = client_number(context)
    plan = decode_plan(unpack(message.content), session.layout)
    reached = _advance(session, context, client, plan)
    if isinstance(reached, NeedsModel):
        return Message(pack(encode_needs_model(reached)), reply_to=message)
    data = session.data(client)
    point = reached.model - decode(plan.probe, session.layout) if plan.probe else reached.model
    found = full_gradient(session.setup.task, session.model(), data, point)
    rule = BudgetRule.parse(config.convergence.certify_budget)
    answer = encode_gradient(plan, found.exact, found.num_examples, found.loss, session.layout, rule)
    return Message(pack(encode_update(answer)), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the round's global model on this client's own data."""
    session = session_for(context)
    torch.set_num_threads(session.setup.config.client.threads)
    client = client_number(context)
    plan = decode_plan(unpack(message.content), session.layout)
    reached = _advance(session, context, client, plan)
    if isinstance(reached, NeedsModel):
        return Message(pack(encode_evaluation(reached)), reply_to=message)
    answer = _evaluate(session, client, plan.round, reached.model)
    return Message(pack(encode_evaluation(answer)), reply_to=message)


def _advance(session: Session, context: Context, client: int, plan: RoundPlan) -> ClientState | NeedsModel:
    """The client's state with the plan's model; kept, for the server now counts on it that this client holds it."""
    store = store_for(context, client)
    reached = advance(plan, store.load(plan.run) or session.fresh_state(plan.run), session.layout)
    if session.needs_steps and not isinstance(reached, NeedsModel):
        store.save(reached)
    return reached


def _evaluate(session: Session, client: int, round: int, vector: Float32Vector) -> Evaluation | NeedsModel:
    data = session.setup.task.client_test_data(client)
    if data is None:
        raise RuntimeError(f"task {session.setup.config.task!r} gives client {client} no data to evaluate on")
    model = session.model()
    model.load_(vector)
    loss, metrics, count = evaluate_model(session.setup.task, model, data)
    return Evaluation(round, count, loss, metrics)


def _seed(seed: int, client: int, round: int) -> int:
    """One number per (run seed, client, round): the same on every engine, whatever ran before."""
    return int(np.random.SeedSequence([seed, client, round]).generate_state(1)[0])
