// The unmodified openai SDK for Node against Tidegate: only baseURL and the key are given.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.NODE_PARTS, "here.js"));
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];

// Plain.
const plain = await client.chat.completions.create({ model: "gpt-4o", messages });
assert.equal(plain.choices[0].message.content, "Hello, 世界");
assert.equal(plain.usage.total_tokens, 8);

// Streamed, with the usage chunk that has no choices.
const options = { model: "gpt-4o", messages, stream: true, stream_options: { include_usage: true } };
let text = "";
let usage = null;
for await (const chunk of await client.chat.completions.create(options)) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, "Hello, 世界");
assert.equal(usage.completion_tokens, 3);

// The helper that follows a stream to its end, and tools.
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
const called = await client.chat.completions.create({ model: "tools", messages, tools });
assert.deepEqual(called.choices[0].message.tool_calls[0].function, { name: "weather", arguments: '{"city": "Köln"}' });
const followed = await client.chat.completions.stream({ model: "tools", messages, tools }).finalChatCompletion();
assert.equal(followed.choices[0].message.tool_calls[0].function.arguments, '{"city": "Köln"}');

// JSON mode, embeddings, models.
const json = await client.chat.completions.create({ model: "json", messages, response_format: { type: "json_object" } });
assert.deepEqual(JSON.parse(json.choices[0].message.content), { ok: true });
const embedded = await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
assert.deepEqual(Array.from(embedded.data[1].embedding), [1, -0.5, 0.25]);
const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert.deepEqual(ids, ["gpt-4o", "tools"]);
const { response } = await client.chat.completions.create({ model: "gpt-4o", messages }).withResponse();
assert.equal(response.headers.get("x-tidegate-path"), "main@direct");

// Responses, streamed.
const kinds = [];
for await (const event of await client.responses.create({ model: "gpt-4o", input: "hi", stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds.at(-1), "response.completed");

// Leaving a stream early is nobody's failure.
for await (const chunk of await client.chat.completions.create({ model: "gpt-4o", messages, stream: true })) {
  if (chunk.choices[0]?.delta?.content) break;
}
console.log("passed");
