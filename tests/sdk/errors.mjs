// Each failure raises the exception the openai SDK for Node has for it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.NODE_PARTS, "here.js"));
const OpenAI = require("openai");

const baseURL = process.env.BASE_URL;
const client = new OpenAI({ baseURL, apiKey: process.env.API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];

async function raises(kind, status, code, model, who = client, headers = {}) {
  const call = who.chat.completions.create({ model, messages }, { headers });
  const error = await call.then(() => assert.fail(`${model}: nothing raised`), (e) => e);
  assert.equal(error.constructor, kind, `${model}: ${error}`);
  assert.equal(error.status, status, model);
  assert.equal(error.code, code, model);
  assert.ok(error.requestID, model);
}

const stranger = new OpenAI({ baseURL, apiKey: "sk-of-a-stranger", maxRetries: 0 });
await raises(OpenAI.AuthenticationError, 401, "invalid_api_key", "gpt-4o", stranger);
await raises(OpenAI.PermissionDeniedError, 403, "model_not_allowed", "forbidden");
await raises(OpenAI.NotFoundError, 404, "model_not_found", "unrouted-model");
await raises(OpenAI.BadRequestError, 400, "context_length_exceeded", "too-long");
await raises(OpenAI.UnprocessableEntityError, 422, "odd", "unprocessable");
await raises(OpenAI.RateLimitError, 429, "rate_limit_exceeded", "limited");
await raises(OpenAI.RateLimitError, 429, "insufficient_quota", "unpaid");
await raises(OpenAI.InternalServerError, 502, "upstream_5xx", "broken");
await raises(OpenAI.InternalServerError, 502, "upstream_auth", "refused");
await raises(OpenAI.InternalServerError, 504, "timeout", "silent", client, { "x-tidegate-timeout-ms": "300" });

for (const [model, code] of [["cut", "stream_interrupted"], ["error-inside", "server_error"]]) {
  let text = "";
  const read = async () => {
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
      text += chunk.choices[0].delta.content ?? "";
    }
  };
  const error = await read().then(() => assert.fail(`${model}: the break went unnoticed`), (e) => e);
  assert.ok(error instanceof OpenAI.APIError, `${model}: ${error}`);
  assert.equal(error.code, code, model);
  assert.equal(text, "so far ", model);
}

// A failure that passes is repeated by the SDK itself, as its default says.
const patient = new OpenAI({ baseURL, apiKey: process.env.API_KEY });
const answer = await patient.chat.completions.create({ model: "recovers", messages });
assert.equal(answer.choices[0].message.content, "at last");
console.log("passed");
