"""The unmodified openai SDK against Tidegate: only base_url and the key are given."""

import asyncio
import os

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0)
HI = [{"role": "user", "content": "hi"}]

# Plain.
answer = client.chat.completions.create(model="gpt-4o", messages=HI)
assert answer.choices[0].message.content == "Hello, 世界", answer
assert answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == 8

# Streamed, with the usage chunk that has no choices.
text, usage, finish = "", None, None
options = {"include_usage": True}
for chunk in client.chat.completions.create(model="gpt-4o", messages=HI, stream=True, stream_options=options):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    usage = chunk.usage or usage
assert (text, finish, usage.completion_tokens) == ("Hello, 世界", "stop", 3), (text, finish, usage)

# Tools, plain and streamed.
tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
answer = client.chat.completions.create(model="tools", messages=HI, tools=tools, tool_choice="required")
call = answer.choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Köln"}'), call
assert answer.choices[0].finish_reason == "tool_calls"
name, arguments = "", ""
for chunk in client.chat.completions.create(model="tools", messages=HI, tools=tools, stream=True):
    for call in chunk.choices[0].delta.tool_calls or []:
        name += call.function.name or ""
        arguments += call.function.arguments or ""
assert (name, arguments) == ("weather", '{"city": "Köln"}'), (name, arguments)

# JSON mode.
answer = client.chat.completions.create(model="json", messages=HI, response_format={"type": "json_object"})
assert answer.choices[0].message.content == '{"ok": true}'

# Embeddings: asked for in base64, decoded by the SDK.
embedding = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
assert [round(x, 3) for x in embedding.data[1].embedding] == [1.0, -0.5, 0.25], embedding

# Completions, models, and the headers that say how an answer came about.
assert client.completions.create(model="old", prompt="x").choices[0].text == "done"
assert [m.id for m in client.models.list()] == ["gpt-4o", "tools"]
assert client.models.retrieve("gpt-4o").id == "gpt-4o"
raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
assert raw.headers["x-tidegate-path"] == "main@direct", raw.headers
assert raw.headers["x-tidegate-attempts"] == "1"
assert raw.parse().choices[0].message.content == "Hello, 世界"
assert raw.parse()._request_id == raw.headers["x-request-id"]

# Responses, streamed.
kinds = [e.type for e in client.responses.create(model="gpt-4o", input="hi", stream=True)]
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds


async def at_once():
    shared = openai.AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0)

    async def one():
        stream = await shared.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    assert set(await asyncio.gather(*[one() for _ in range(20)])) == {"Hello, 世界"}
    await shared.close()


asyncio.run(at_once())
print("passed")
