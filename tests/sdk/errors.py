"""Each failure raises the exception the openai SDK has for it."""

import os

import openai

base, key = os.environ["BASE_URL"], os.environ["API_KEY"]
client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
HI = [{"role": "user", "content": "hi"}]


def raises(kind, status, code, model, who=client, **more):
    try:
        who.chat.completions.create(model=model, messages=HI, **more)
    except openai.APIError as error:
        assert type(error) is kind, (model, type(error), error)
        assert error.status_code == status, (model, error.status_code)
        assert error.code == code, (model, error.code)
        assert error.request_id, model
        return error
    raise AssertionError(f"{model}: nothing raised")


stranger = openai.OpenAI(base_url=base, api_key="sk-of-a-stranger", max_retries=0)
raises(openai.AuthenticationError, 401, "invalid_api_key", "gpt-4o", who=stranger)
raises(openai.PermissionDeniedError, 403, "model_not_allowed", "forbidden")
raises(openai.NotFoundError, 404, "model_not_found", "unrouted-model")
error = raises(openai.BadRequestError, 400, "context_length_exceeded", "too-long")
assert "maximum context length" in error.message and error.param == "messages", error
raises(openai.BadRequestError, 400, "context_length_exceeded", "too-long", stream=True)
raises(openai.UnprocessableEntityError, 422, "odd", "unprocessable")
error = raises(openai.RateLimitError, 429, "rate_limit_exceeded", "limited")
assert error.response.headers["retry-after"] == "60", error.response.headers
error = raises(openai.RateLimitError, 429, "insufficient_quota", "unpaid")
assert error.response.headers["x-should-retry"] == "false"
error = raises(openai.InternalServerError, 502, "upstream_5xx", "broken")
assert error.type == "upstream_error"
error = raises(openai.InternalServerError, 502, "upstream_auth", "refused")
assert error.response.headers["x-should-retry"] == "false"
raises(openai.InternalServerError, 504, "timeout", "silent", extra_headers={"x-tidegate-timeout-ms": "300"})


def breaks(model, code):
    text = ""
    try:
        for chunk in client.chat.completions.create(model=model, messages=HI, stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        assert type(error) is openai.APIError, (model, type(error))
        assert error.code == code, (model, error.code)
        assert text == "so far ", (model, text)
        return
    raise AssertionError(f"{model}: the break went unnoticed")


# A stream that breaks is never taken for a whole answer.
breaks("cut", "stream_interrupted")
breaks("error-inside", "server_error")

# A failure that passes is repeated by the SDK itself, as its default says.
patient = openai.OpenAI(base_url=base, api_key=key)
answer = patient.chat.completions.create(model="recovers", messages=HI)
assert answer.choices[0].message.content == "at last", answer
print("passed")
