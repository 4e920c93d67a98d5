"""Three chat completions one right after the other, with OpenAI's client as it is: a 429 is waited out by its Retry-After and tried again.

Usage: chat.py BASE_URL. Exits with 0 if all three are answered and none that was refused waited less than it was told.
"""

import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-test", timeout=20, max_retries=2)
started = time.monotonic()
for number in range(3):
    answer = client.chat.completions.create(model="test", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content, answer
    print(f"answer {number} after {time.monotonic() - started:.2f} s")
assert time.monotonic() - started >= 1.9, "Retry-After was not kept"

try:
    impatient = client.with_options(max_retries=0)
    for _ in range(3):
        impatient.chat.completions.create(model="test", messages=[{"role": "user", "content": "hi"}])
except openai.RateLimitError as error:
    assert error.status_code == 429 and error.code == "rate_limit_exceeded" and error.type == "requests", error
    assert error.response.headers["retry-after"] == "1", error.response.headers
else:
    sys.exit("nothing was refused")
