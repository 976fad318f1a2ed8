#!/bin/sh
# The same with curl. Start the server first: python3 run.py
# FOUNDRY_URL names another server than http://localhost:9696, FOUNDRY_MODEL another model.
set -eu

url=${FOUNDRY_URL:-http://localhost:9696}
model=${FOUNDRY_MODEL:-foundry-demo}

ask() { # ask PATH JSON
    curl --fail-with-body --silent --show-error --no-buffer "$url$1" --header 'Content-Type: application/json' --data "$2"
    echo
}

echo '--- health'
curl --fail-with-body --silent --show-error "$url/api/v1/health"
echo

echo '--- models'
curl --fail-with-body --silent --show-error "$url/v1/models"
echo

echo '--- one answer'
ask /v1/chat/completions '{"model": "'"$model"'", "messages": [{"role": "user", "content": "What are you?"}]}'

echo '--- the same as a stream'
ask /v1/chat/completions \
    '{"model": "'"$model"'", "stream": true, "messages": [{"role": "user", "content": "What are you?"}]}'

echo '--- the native API'
ask /api/v1/generate '{"model": "'"$model"'", "prompt": "What are you?"}'

echo '--- several prompts at once'
ask /api/v1/generate/batch '{"model": "'"$model"'", "prompts": ["Hello", "What are you?"]}'
