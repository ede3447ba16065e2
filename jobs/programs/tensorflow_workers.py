"""A classifier trained by all workers together; knows nothing of where it runs but what TF_CONFIG says."""

import json
import os

import tensorflow as tf

SAMPLES, FEATURES, BATCH, STEPS = 512, 16, 64, 40

task = json.loads(os.environ["TF_CONFIG"])["task"]
strategy = tf.distribute.MultiWorkerMirroredStrategy()
workers = strategy.num_replicas_in_sync

# Every worker makes the same samples, and `shard` gives each its own.
generator = tf.random.Generator.from_seed(1)
x = generator.normal([SAMPLES, FEATURES])
y = tf.cast(tf.reduce_sum(x, axis=1) > 0, tf.float32)
samples = tf.data.Dataset.from_tensor_slices((x, y)).shard(workers, task["index"]).repeat().batch(BATCH // workers)

with strategy.scope():
    weights = tf.Variable(tf.zeros([FEATURES, 1]))
    bias = tf.Variable(0.0)


def descend(x, y):
    """One step of this worker; the loss of its part of the batch."""
    with tf.GradientTape() as tape:
        logits = tf.squeeze(x @ weights, axis=1) + bias
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
        loss = tf.reduce_sum(losses) / BATCH  # of the whole batch: the sum over workers is its mean
    context = tf.distribute.get_replica_context()
    total = tf.distribute.ReduceOp.SUM
    for variable, gradient in zip((weights, bias), tape.gradient(loss, (weights, bias)), strict=True):
        variable.assign_sub(context.all_reduce(total, gradient))
    return loss


@tf.function
def step(batch):
    """One step of all workers; the loss of the batch."""
    losses = strategy.run(descend, args=batch)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)


batches = iter(samples)
losses = [float(step(next(batches))) for _ in range(STEPS)]
fell = f"loss {losses[0]:.4f} -> {losses[-1]:.4f}"
print(f"worker {task['index']} of {workers}: {fell}, bias {bias.numpy():.6f}", flush=True)
