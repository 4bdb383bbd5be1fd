# How to reach the model that `make llm` serves:  . llm/env.sh
export ICDRAT_LLM_URL="http://127.0.0.1:${LLM_PORT:-8000}/v1"
export ICDRAT_LLM_MODEL=qwen2.5-coder-1.5b
export ICDRAT_LLM_CONTEXT=4096                # as the server is started
export ICDRAT_LLM_MAX_TOKENS=300              # a few quotes
export ICDRAT_LLM_FORMAT=json_object_schema   # the form that llama-cpp-python enforces
export ICDRAT_LLM_TIMEOUT=600                 # two cores take their time
