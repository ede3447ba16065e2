"""The text of every script: one builder, and the pieces of bash that it is made of."""
