"""Agent logic: the chat turn and the agents. Only the chat function loads it, because the model SDKs come with it."""
