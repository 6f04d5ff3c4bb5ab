"""A model behind HTTP, in the shape of OpenAI's completions and chat endpoints (`workbench serve`, docs/serve.md).

From below: `engine` runs a scheduler in a thread, `choice` is a job of it, `fields` checks what a request says,
`completions` and `chat` are the two endpoints' shapes, `answer` sends what a job gives, `app` puts them together, and
`server` listens.
"""
