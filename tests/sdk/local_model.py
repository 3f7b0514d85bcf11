"""A real model behind Tidegate: a chat, plain and streamed, that the model itself has written."""

import os

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0)
asked = dict(
    model="smollm2",
    messages=[{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}],
    max_tokens=40,
    temperature=0,
    seed=1,
)

plain = client.chat.completions.create(**asked)
said = plain.choices[0].message.content
assert "Paris" in said, said
assert plain.choices[0].finish_reason in ("stop", "length")
assert plain.usage.prompt_tokens > 5 and plain.usage.completion_tokens > 2, plain.usage

pieces, usage, finish = [], None, None
for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    if chunk.choices:
        finish = chunk.choices[0].finish_reason or finish
        pieces.append(chunk.choices[0].delta.content or "")
streamed = "".join(pieces)
assert "Paris" in streamed, streamed
assert len([p for p in pieces if p]) > 2, "it came piece by piece"
assert finish in ("stop", "length") and usage.completion_tokens > 2, (finish, usage)

# The model's own server refuses this, and says why.
try:
    client.chat.completions.create(model="smollm2", messages=[{"role": "user"}])
except openai.APIStatusError as error:
    assert error.status_code in (400, 500, 502), error
else:
    raise AssertionError("a message without content was accepted")

# An answer whose reader leaves is stopped; the next one does not wait for it.
for chunk in client.chat.completions.create(**{**asked, "max_tokens": 1500}, stream=True):
    break
assert client.chat.completions.create(**asked).choices[0].message.content
assert "smollm2" in [m.id for m in client.models.list()]
print(said.strip().replace("\n", " "))
