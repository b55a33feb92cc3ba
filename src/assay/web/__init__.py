"""The page, its API and the durable worker that checks papers beside it."""
