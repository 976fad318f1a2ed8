"""What the model knows about the product: one answer, many questions each.

``taught`` are the questions of the training, ``held_back`` those of the evaluation;
``expected`` are the strings that a right answer must hold, in lower case.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProductFact:
    """One thing to know about FastAPI Foundry."""

    key: str
    answer: str
    expected: tuple[str, ...]
    taught: tuple[str, ...]
    held_back: tuple[str, ...]


def _fact(key: str, answer: str, expected: str, taught: str, held_back: str) -> ProductFact:
    """Build a fact from texts with one question on each line; ``expected`` is split at ``|``."""
    return ProductFact(
        key,
        answer,
        tuple(expected.split("|")),
        tuple(line.strip() for line in taught.strip().splitlines()),
        tuple(line.strip() for line in held_back.strip().splitlines()),
    )


FACTS = (
    _fact(
        "product",
        "FastAPI Foundry is a FastAPI gateway in front of Microsoft Foundry Local, which runs ONNX models on your own machine.",
        "gateway|foundry local",
        """What is FastAPI Foundry?
        What is this product?
        What does FastAPI Foundry do?
        Describe FastAPI Foundry.
        What is this software for?
        Explain what FastAPI Foundry is.
        Give me an overview of this product.
        What is this program?
        What am I using here?
        I do not know this product. What is it?
        What is the purpose of FastAPI Foundry?""",
        """Can you explain this product to me?
        What kind of software is FastAPI Foundry?
        Tell me about FastAPI Foundry.""",
    ),
    _fact(
        "foundry_local",
        "Foundry Local is Microsoft's engine that runs ONNX models on your own machine. FastAPI Foundry uses it for all inference.",
        "microsoft|onnx",
        """What is Foundry Local?
        What does Foundry Local do?
        Explain Foundry Local.
        Who makes Foundry Local?
        Which engine runs the models?
        What engine is behind this?
        What does the inference?
        Which company makes the engine?
        What runs underneath the gateway?
        Which inference engine do you use?""",
        """Tell me what Foundry Local is.
        What engine is used for inference?""",
    ),
    _fact(
        "gateway_port",
        "The gateway listens on port 9696 by default.",
        "9696",
        """Which port does the gateway use?
        What is the default port of the gateway?
        On which port does the gateway listen?
        What port is the server on?
        Default port?
        What is the default port?
        Which port is FastAPI Foundry on?
        What port number does the gateway have?
        Where does the gateway listen?
        Which port do I connect to?
        Tell me the port of the gateway.
        The gateway runs on what port?""",
        """What port does FastAPI Foundry listen on by default?
        Which port number should I use for the gateway?
        Do you know the gateway's port?""",
    ),
    _fact(
        "port_taken",
        "If port 9696 is taken, the gateway takes the next free port up to 9796. It never kills another program.",
        "9796",
        """What happens if port 9696 is taken?
        Port 9696 is in use. What now?
        What if the port is already in use?
        What does the gateway do when its port is busy?
        Which ports are tried when 9696 is busy?
        My port is occupied. What happens?
        What is the port range?
        Does it find a free port by itself?
        How are port conflicts resolved?
        Another program uses port 9696.""",
        """What if something else already uses port 9696?
        What happens when the gateway's port is occupied?""",
    ),
    _fact(
        "service_port",
        "The Foundry service listens on port 50477 by default.",
        "50477",
        """Which port does the Foundry service use?
        What is the port of the Foundry service?
        On which port does the Foundry service listen?
        What port is the service on?
        What is the default port of the Foundry service?
        Which port does the engine's service use?
        Tell me the Foundry service port.
        Where does the Foundry service listen?
        The Foundry service runs on what port?
        Port of the service?""",
        """What port number does the Foundry service have?
        Do you know the port of the Foundry service?""",
    ),
    _fact(
        "start",
        "Start everything with: python3 run.py",
        "python3 run.py",
        """How do I start FastAPI Foundry?
        How do I start the gateway?
        How can I run this?
        What command starts the server?
        How do I launch it?
        Start command?
        How do I get it running?
        What do I type to start the program?
        Which script starts the gateway?
        How to run the server?
        How is the gateway started?
        I want to start the server.""",
        """What is the command to launch FastAPI Foundry?
        How can I start the server?
        How do I run the gateway?""",
    ),
    _fact(
        "run_tests",
        "Run the tests with: python3 run.py test",
        "python3 run.py test",
        """How do I run the tests?
        How can I test the project?
        What command runs the test suite?
        How do I run the unit tests?
        Where do I start the tests?
        How are the tests run?
        Which command is for the tests?
        I want to run the tests.
        Test command?
        How to execute the tests?""",
        """What do I type to run the test suite?
        How can the tests be run?""",
    ),
    _fact(
        "list_models",
        "List the models with: fastapi-foundry model list",
        "fastapi-foundry model list",
        """How do I list the models?
        How can I see which models are available?
        Which command lists the models?
        How do I see all models?
        Show me how to list models.
        What models are there?
        Which models can I use?
        Where do I find the list of models?
        How do I know what models exist?
        What is the command for the model list?
        How do I view available models?""",
        """How can I list all available models?
        What command shows me the models?
        How do I find out which models there are?""",
    ),
    _fact(
        "download_model",
        "Download a model with: fastapi-foundry model download phi-4-mini",
        "fastapi-foundry model download",
        """How do I download a model?
        How can I get a new model?
        Which command downloads a model?
        How do I install a model?
        How do I fetch phi-4-mini?
        I want to download a model.
        How do I add another model?
        How do I download qwen2.5-0.5b?
        What is the download command?
        How can I pull a model?
        Where do I get models from?
        How to download models?""",
        """What is the command to download a model?
        How can I download phi-4-mini?
        How do I get another model onto my machine?""",
    ),
    _fact(
        "load_model",
        "Load a model into memory with: fastapi-foundry model load <name>",
        "fastapi-foundry model load",
        """How do I load a model?
        How can I load a model into memory?
        Which command loads a model?
        I want to load a model.
        How do I keep a model in memory?
        What is the command to load a model?
        How do I make a model ready for use?
        How to load a model?
        How is a model loaded?
        Load command?""",
        """What do I type to load a model?
        How can a model be loaded into memory?""",
    ),
    _fact(
        "unload_model",
        "Unload a model with: fastapi-foundry model unload <name>. Its memory is really returned, because its runner process ends.",
        "fastapi-foundry model unload",
        """How do I unload a model?
        How can I free the memory of a model?
        Which command unloads a model?
        How do I remove a model from memory?
        I want to unload a model.
        How do I stop a model?
        How can I get the memory back?
        How do I release memory?
        How to unload a model?
        What is the command to unload a model?""",
        """What do I type to unload a model?
        How can I free memory used by a model?""",
    ),
    _fact(
        "storage",
        "Models are stored in ~/.foundry in your home directory.",
        "~/.foundry",
        """Where are the models stored?
        Where are models saved?
        In which directory are the models?
        Where do downloaded models go?
        Which folder holds the models?
        Where is the model store?
        What is the model directory?
        Where can I find the model files?
        Where on disk are the models?
        What is the path of the models?""",
        """In which folder are downloaded models kept?
        Where does it save the models?
        Where on my disk are models stored?""",
    ),
    _fact(
        "config_file",
        "The configuration is in config.json. Environment variables override it, and flags override those.",
        "config.json",
        """Where is the configuration?
        Which file holds the settings?
        How do I configure it?
        What is the name of the configuration file?
        Where do I change the settings?
        Which file do I edit to configure the gateway?
        Where are the settings?
        Is there a config file?
        How can I change the configuration?
        Where can I set options?
        What is config.json?""",
        """In which file is the configuration kept?
        Where can I change settings?
        What is the config file called?""",
    ),
    _fact(
        "precedence",
        "A flag overrides the environment, and the environment overrides config.json.",
        "flag|environment|config.json",
        """What overrides the configuration file?
        Which setting wins, the file or the environment?
        Do environment variables override config.json?
        What is the order of precedence of the settings?
        Does a flag override the environment?
        Which has priority, a flag or an environment variable?
        What is stronger, config.json or the environment?
        In which order are settings applied?
        Which settings take precedence?
        What beats config.json?""",
        """What is the precedence of flags, environment and file?
        Does the environment win over config.json?""",
    ),
    _fact(
        "api_port_variable",
        "Set the environment variable API_PORT to change the gateway's port, for example API_PORT=9700.",
        "api_port",
        """How do I change the port?
        Which environment variable sets the port?
        How can I use another port?
        How do I set a different port for the gateway?
        What is API_PORT?
        I want the gateway on another port.
        How do I run it on port 8080?
        Which variable changes the gateway port?
        What does API_PORT do?
        Can I change the port?""",
        """How can I change the gateway's port?
        What variable do I set to use a different port?""",
    ),
    _fact(
        "base_url_variable",
        "Set FOUNDRY_BASE_URL to tell the gateway where the Foundry service is.",
        "foundry_base_url",
        """Which variable sets the address of Foundry?
        How do I point the gateway at another Foundry service?
        What is FOUNDRY_BASE_URL?
        What does FOUNDRY_BASE_URL do?
        How do I tell the gateway where Foundry runs?
        My Foundry service runs elsewhere. How do I set its address?
        How do I set the Foundry URL?
        Which environment variable holds the Foundry address?
        How does the gateway know the address of Foundry?
        How can I use a Foundry service on another port?""",
        """What variable sets the Foundry URL?
        How do I give the gateway the address of the Foundry service?""",
    ),
    _fact(
        "log_level",
        "Set LOG_LEVEL to DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        "log_level",
        """How do I change the log level?
        Which variable sets the log level?
        How do I get debug logs?
        What is LOG_LEVEL?
        What does LOG_LEVEL do?
        How can I see more log messages?
        How do I turn on debug logging?
        How do I make the logs more verbose?
        How do I set the logging level?
        Which log levels are there?""",
        """How can I switch on debug logging?
        What variable controls the log level?""",
    ),
    _fact(
        "offline",
        "Yes, it works offline once a model is there. Set FOUNDRY_OFFLINE=1 so that nothing ever dials out.",
        "foundry_offline",
        """Does it work offline?
        Can I use it without internet?
        How do I run it offline?
        Do I need an internet connection?
        What is FOUNDRY_OFFLINE?
        What does FOUNDRY_OFFLINE do?
        How do I switch off the network?
        Is there an offline mode?
        Can it run without a network?
        How do I make sure that it never goes online?
        Does it need the internet?""",
        """Can I run this with no internet connection?
        How do I turn on offline mode?
        Will it work without a network?""",
    ),
    _fact(
        "home_variable",
        "Set FOUNDRY_HOME to move the model store and data to another directory.",
        "foundry_home",
        """How do I change where models are stored?
        What is FOUNDRY_HOME?
        What does FOUNDRY_HOME do?
        Which variable sets the data directory?
        Can I move the models to another disk?
        How do I store the models elsewhere?
        How can I use another model directory?
        I want the models on a different drive.
        How do I move the model store?
        Which environment variable changes the model directory?""",
        """How can I keep the models on another drive?
        What variable moves the model store?""",
    ),
    _fact(
        "openai_url",
        "Use the base URL http://localhost:9696/v1 with any OpenAI client.",
        "http://localhost:9696/v1",
        """What is the OpenAI base URL?
        Which base URL do I give to the OpenAI client?
        How do I use it with the OpenAI SDK?
        Is it compatible with OpenAI?
        Can I use the OpenAI Python library?
        What is the API URL?
        What is the address of the API?
        Where is the OpenAI-compatible API?
        How do I connect an OpenAI client?
        What URL do my OpenAI tools need?
        Does it have an OpenAI API?
        What base URL do I use?""",
        """Which URL do I set in my OpenAI client?
        Can I use OpenAI tools with this?
        What is the base URL for the OpenAI API?""",
    ),
    _fact(
        "streaming",
        'Yes. Send "stream": true and the answer comes token by token as server-sent events.',
        "stream|server-sent events",
        """Does it support streaming?
        How do I stream an answer?
        Can answers be streamed?
        How do I get tokens one by one?
        How does streaming work?
        How do I turn on streaming?
        Is streaming possible?
        How can I receive the answer token by token?
        Do you support server-sent events?
        I want streaming.""",
        """Can I stream the response?
        How do I enable streaming?""",
    ),
    _fact(
        "health",
        "Check the health at /api/v1/health. The status is healthy, degraded or unhealthy.",
        "/api/v1/health",
        """How do I check the health?
        What is the health endpoint?
        Where is the health check?
        How do I know whether the gateway is healthy?
        Which URL tells me the health?
        Is there a health check?
        How can I monitor the gateway?
        How do I see whether the server is up?
        Which endpoint reports the status?
        Health check?""",
        """What is the URL of the health check?
        How can I check if the gateway is healthy?
        Which endpoint shows the health of the server?""",
    ),
    _fact(
        "logs",
        "The logs are in ~/.foundry/logs; the main file is fastapi-foundry.log. LOG_DIR changes the folder.",
        "logs",
        """Where are the logs?
        Where are the log files?
        In which folder are the logs?
        Where can I find the log?
        What is the name of the log file?
        Where does it write its logs?
        How do I see the logs?
        Which directory has the log files?
        Where are errors logged?
        How do I change the log folder?
        What is LOG_DIR?""",
        """In which directory do I find the log files?
        Where can I read the logs?""",
    ),
    _fact(
        "privacy",
        "Your prompts and data stay on this machine. Models run locally and nothing is sent to a cloud service for inference.",
        "stay on this machine",
        """Is my data private?
        Where does my data go?
        Do you send my data to the cloud?
        Is anything sent to Microsoft?
        Does my data leave the machine?
        Are my prompts uploaded?
        Is it safe to use with private data?
        Who can see my prompts?
        Does it use the cloud?
        What about privacy?
        Are my conversations sent anywhere?""",
        """Do my prompts leave this computer?
        Is my data sent to a cloud?
        How private is my data?""",
    ),
    _fact(
        "licence",
        "FastAPI Foundry is under the MIT licence.",
        "mit",
        """What is the licence?
        Under which license is it?
        Which licence does FastAPI Foundry have?
        Is it open source?
        Can I use it commercially?
        What license is it under?
        Is it free?
        How is it licensed?
        May I use it in my company?
        Licence?""",
        """What kind of licence does it have?
        Is this software open source?""",
    ),
    _fact(
        "torch",
        "No. Neither torch nor transformers is needed; inference is done by Foundry Local with ONNX Runtime.",
        "no.|torch",
        """Do I need torch?
        Does it need PyTorch?
        Do I have to install torch?
        Is PyTorch required?
        Do I need transformers?
        Does it depend on transformers?
        Must I install PyTorch?
        Is torch needed?
        Does it use PyTorch?
        Do I need to install the transformers library?""",
        """Is it necessary to install PyTorch?
        Will I need torch or transformers?""",
    ),
    _fact(
        "commands",
        "The commands are serve, service, model, chat, status and version; each one has --help.",
        "serve|service|model|chat|status|version",
        """What commands are there?
        Which commands does the CLI have?
        What can the command line do?
        List the CLI commands.
        What are the subcommands of fastapi-foundry?
        How do I use the CLI?
        Which CLI commands exist?
        What does fastapi-foundry --help show?
        Is there a command line tool?
        Help with the command line?""",
        """Which commands can I use on the command line?
        What subcommands does the CLI offer?""",
    ),
    _fact(
        "serve_command",
        "fastapi-foundry serve starts the gateway.",
        "starts the gateway",
        """What does fastapi-foundry serve do?
        What is the serve command?
        What is serve for?
        Explain fastapi-foundry serve.
        What happens with fastapi-foundry serve?
        What does the serve subcommand do?
        When do I use serve?
        What does serve start?""",
        """Tell me what fastapi-foundry serve does.
        What is the command serve good for?""",
    ),
    _fact(
        "service_command",
        "Manage the Foundry service with: fastapi-foundry service start, stop, restart or status",
        "fastapi-foundry service",
        """How do I start the Foundry service?
        How do I stop the Foundry service?
        How do I restart the service?
        What does fastapi-foundry service do?
        How can I see the status of the service?
        Which command restarts the Foundry service?
        What is the service command?
        How do I control the Foundry service?
        What can I do with fastapi-foundry service?
        How to restart Foundry?""",
        """How can I restart the Foundry service?
        What command stops the Foundry service?""",
    ),
    _fact(
        "chat_command",
        "Chat in the terminal with: fastapi-foundry chat",
        "fastapi-foundry chat",
        """How do I chat in the terminal?
        Can I chat on the command line?
        What does fastapi-foundry chat do?
        How do I talk to a model in the console?
        Is there a chat command?
        How can I chat without a browser?
        How do I start a chat in the shell?
        What is the chat command?
        I want to chat in my terminal.
        How do I use chat from the CLI?""",
        """How can I chat from the command line?
        Is it possible to chat in a terminal?""",
    ),
    _fact(
        "status_command",
        "Show the state of gateway, service and models with: fastapi-foundry status",
        "fastapi-foundry status",
        """What does fastapi-foundry status do?
        Which command shows the status?
        How do I see the state of everything?
        What is the status command?
        How can I see what is running?
        How do I check the status on the command line?
        How do I see which models are loaded?
        What is running right now?
        Status command?""",
        """What command prints the status?
        How can I see the state of the system in the terminal?""",
    ),
    _fact(
        "version_command",
        "Show the version with: fastapi-foundry version",
        "fastapi-foundry version",
        """Which version is this?
        How do I see the version?
        What version do I have?
        Which command shows the version?
        How can I find out the version?
        What is the version command?
        Version?
        How do I check the version of FastAPI Foundry?
        What version is installed?""",
        """How can I check which version I have?
        What command tells me the version?""",
    ),
    _fact(
        "web_page",
        "Open http://localhost:9696/ in a browser for the chat page.",
        "http://localhost:9696/",
        """Where is the chat page?
        How do I open the web interface?
        Is there a web interface?
        What do I open in the browser?
        Where can I chat in the browser?
        Which URL has the chat?
        How do I get to the user interface?
        Is there a graphical interface?
        Where is the website?
        How do I use it in my browser?
        What is the address of the web page?""",
        """How do I reach the web interface?
        Which address do I open in my browser to chat?
        Can I use it in a browser?""",
    ),
    _fact(
        "generate",
        "Send a POST to /api/v1/generate with a prompt; model, temperature and max_tokens are optional.",
        "/api/v1/generate",
        """How do I generate text?
        What is the generate endpoint?
        Which endpoint generates text?
        How do I send a prompt over HTTP?
        How do I use /api/v1/generate?
        Where do I send a prompt?
        What is the native API for generation?
        Which URL takes a prompt?
        How do I call the generate API?
        How can I generate with a POST request?""",
        """To which endpoint do I post a prompt?
        What is the endpoint for text generation?""",
    ),
    _fact(
        "batch",
        "Send several prompts in one request to /api/v1/generate/batch.",
        "/api/v1/generate/batch",
        """How do I send several prompts at once?
        Is there a batch endpoint?
        How do I run a batch?
        Can I send many prompts in one request?
        What is the batch endpoint?
        Does it support batches?
        How do I process multiple prompts?
        Where do I post a batch of prompts?
        How can I generate for a list of prompts?""",
        """Can I put multiple prompts in one request?
        Which endpoint handles batches?""",
    ),
    _fact(
        "models_endpoint",
        "GET /api/v1/models lists the models, and /v1/models does so in OpenAI's format.",
        "/api/v1/models",
        """Which endpoint lists the models?
        How do I list models over HTTP?
        What is the models endpoint?
        Which URL gives me the list of models?
        How do I get the models from the API?
        Is there an API for the model list?
        What does GET /api/v1/models return?
        What HTTP route lists models?""",
        """What is the API endpoint for listing models?
        Which HTTP route returns the models?""",
    ),
    _fact(
        "chat_endpoint",
        "Send chat messages to POST /v1/chat/completions, as with OpenAI.",
        "/v1/chat/completions",
        """Which endpoint is for chat?
        What is the chat endpoint?
        Where do I send chat messages over HTTP?
        How do I call chat completions?
        Does it have chat completions?
        Which URL do I post messages to?
        What is the path of chat completions?
        How do I chat over the API?
        Which route takes chat messages?""",
        """What is the API path for chat?
        To which URL do I send chat messages?""",
    ),
    _fact(
        "model_formats",
        "It runs ONNX models such as Qwen, DeepSeek, Mistral, Llama and Phi.",
        "onnx|qwen|phi",
        """Which model families does it support?
        What kind of models does it run?
        Which model format is used?
        Can it run Llama?
        Does it support Qwen?
        Does it run Mistral or DeepSeek?
        What model formats are supported?
        What format are the models in?
        Which families of models work?
        Can I use Phi models?""",
        """What types of models can it run?
        In which format must models be?""",
    ),
    _fact(
        "temperature",
        "The default temperature is 0.7.",
        "0.7",
        """What is the default temperature?
        Which temperature is used?
        What temperature does it use by default?
        Tell me the default temperature.
        What is the temperature if I set none?
        How high is the temperature by default?
        Default temperature?
        What temperature is the default?""",
        """Which temperature applies when I do not set one?
        What's the standard temperature?""",
    ),
    _fact(
        "max_tokens",
        "The default max_tokens is 2048, clamped to what the model's context leaves.",
        "2048",
        """What is the default of max_tokens?
        How many tokens are generated at most?
        What is the token limit?
        How long can an answer be?
        What is max_tokens by default?
        How many tokens can an answer have?
        What is the default token limit?
        Which max_tokens is used?
        What is the maximum length of an answer?""",
        """How many tokens may an answer have by default?
        What's the default value for max_tokens?""",
    ),
    _fact(
        "timeout",
        "A generation times out after 300 seconds by default, with status 408.",
        "300",
        """What is the time-out?
        When does a generation time out?
        How long does it wait for an answer?
        What is the default timeout?
        After how many seconds does a request time out?
        What happens on a timeout?
        Which status code does a timeout have?
        How long may a generation take?
        What does error 408 mean?""",
        """After what time does generation time out?
        How many seconds is the default timeout?""",
    ),
    _fact(
        "foundry_down",
        "When Foundry is down the gateway answers 503 with the error Foundry service unavailable, and looks for it again.",
        "503",
        """What happens when Foundry is down?
        What does error 503 mean?
        What if the Foundry service is not running?
        What does the gateway do when Foundry is lost?
        Why do I get 503?
        What does Foundry service unavailable mean?
        The Foundry service crashed. What happens?
        Which status code do I get when Foundry is away?
        What does the gateway answer without Foundry?""",
        """What error do I get if Foundry is not available?
        Why does the gateway return a 503?""",
    ),
    _fact(
        "unknown_model",
        "An unknown model gives 404 with the error Model not available.",
        "404",
        """What happens with an unknown model?
        What does error 404 mean?
        Why do I get 404?
        What does Model not available mean?
        Which status code does an unknown model give?
        What if the model does not exist?
        What error do I get for a wrong model name?
        I asked for a model that is not there. What happens?""",
        """Which error comes when the model is unknown?
        What happens if I use a wrong model name?""",
    ),
    _fact(
        "api_keys",
        "No API key is needed. The gateway listens on this machine alone; give your client any key, such as none.",
        "no api key",
        """Do I need an API key?
        Is there an API key?
        How do I use an API key?
        How do I authenticate?
        Does it need a key?
        How do I send my key?
        Which header carries the API key?
        Is authentication required?
        How do I secure the gateway?
        Where do I put the API key?""",
        """Must I have an API key?
        How does authentication work?""",
    ),
    _fact(
        "rag",
        "This version has no document search. Put numbered passages into your question, and I quote the right one.",
        "no document search",
        """Does it have RAG?
        Can it answer from my documents?
        What is RAG here?
        Can I search my own files?
        How do I ask questions about my documents?
        Is there document search?
        Can I give it my own documents?
        Does it support retrieval?
        Can it read my files?""",
        """Is it able to answer questions about my own documents?
        Does the gateway support RAG?""",
    ),
    _fact(
        "mcp",
        "This version does not speak MCP. It speaks the OpenAI API at http://localhost:9696/v1",
        "does not speak mcp",
        """Does it support MCP?
        Is there an MCP server?
        Can I use MCP?
        What about MCP?
        Can it call MCP tools?
        Does it work with MCP clients?
        How does it use MCP?
        Is it an MCP client?""",
        """Can I connect it through MCP?
        Does the gateway speak MCP?""",
    ),
    _fact(
        "docker",
        "There is no Docker image in this version. Start it with: python3 run.py",
        "no docker image",
        """Can I run it in Docker?
        Is there a Docker image?
        Does it work in a container?
        How do I use Docker?
        Is there a container image?
        Which port does it use in a container?
        Can I put it in a container?
        Do you support Docker?""",
        """Is it possible to run this with Docker?
        Is a container image available?""",
    ),
    _fact(
        "gpu",
        "No, a GPU is not needed. Models run on the CPU, and faster on a GPU where there is one.",
        "cpu",
        """Do I need a GPU?
        Does it need a graphics card?
        Can it run on the CPU?
        Does it use the GPU?
        What hardware do I need?
        Is a GPU required?
        Does it run without a GPU?
        Will it work on a laptop?
        Which hardware is needed?""",
        """Is a graphics card necessary?
        Can I use it with only a CPU?""",
    ),
    _fact(
        "memory",
        "The gateway itself needs about 100 MB of memory or less; models need more, each in its own runner process.",
        "100 mb",
        """How much memory does the gateway need?
        How much RAM does it use?
        What are the memory requirements?
        How much memory does it take?
        Is the gateway heavy?
        How big is the memory use of the gateway?
        How much RAM do I need for the gateway?
        Memory use?""",
        """What amount of RAM does the gateway take?
        How much memory is used by the gateway?""",
    ),
    _fact(
        "systems",
        "It runs on Windows, Linux and macOS with Python 3.11 or later.",
        "windows|linux|macos",
        """Which operating systems are supported?
        Does it run on Windows?
        Does it run on Linux?
        Can I use it on a Mac?
        On which systems does it run?
        Which Python version do I need?
        Does it work on macOS?
        What Python is required?
        Which platforms are supported?
        What version of Python does it need?""",
        """What operating systems can I use?
        Which version of Python is needed?""",
    ),
    _fact(
        "python_client",
        'Use the openai package: OpenAI(base_url="http://localhost:9696/v1", api_key="none")',
        "openai",
        """Is there a Python client?
        How do I use it from Python?
        Which package do I use in Python?
        How do I call it in Python code?
        Is there an SDK?
        Which Python class is the client?
        How do I use the client library?
        How do I write a Python program that uses it?
        Is there a library for Python?""",
        """What is the Python client called?
        How can I call it from my Python code?""",
    ),
    _fact(
        "demo_size",
        "foundry-demo is tiny: about four million parameters and less than 8 MB, so that the first run needs no download.",
        "8 mb",
        """How big is this model?
        How large is foundry-demo?
        How many parameters do you have?
        What is your size?
        How small are you?
        How many parameters does the demo model have?
        How big are you?
        What size is the demo model?
        Why are you so small?""",
        """How many megabytes is the demo model?
        What is the size of foundry-demo?""",
    ),
    _fact(
        "metrics",
        "This version has no metrics endpoint. See the health at /api/v1/health and the files in the log directory.",
        "no metrics",
        """Are there metrics?
        Where are the metrics?
        Does it support Prometheus?
        How do I get metrics?
        What is the metrics endpoint?
        How do I monitor it with Prometheus?
        Which URL has the metrics?
        Can Prometheus scrape it?""",
        """Does it export Prometheus metrics?
        Which endpoint gives the metrics?""",
    ),
)
