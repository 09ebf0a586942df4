"""What the demo is asked about this program, and what it answers.

Phrasings are small grammars: `[a|b|]` stands for any one of its parts. The held-out phrasings are
never trained on; evaluation asks only those.
"""

import re
from dataclasses import dataclass
from random import Random

_CHOICE = re.compile(r"\[([^\[\]]*)\]")

HOW = (
    "[how do I|how can I|how to|how would I|how does one|tell me how to|what do I type to|what "
    "is the way to|I want to|I would like to|can you tell me how to|what must I do to|is there "
    "a way to|can I]"
)
MAY = "[can I|may I|is it possible to|am I able to|could I]"
PROGRAM = "[this program|qwen35|this tool|this|the program|it|this cli|the command line]"
LATER = "once your version has it; see qwen35 --help."


@dataclass(frozen=True)
class Intent:
    """One thing that is asked, its one answer, and a line of thought about it."""

    name: str
    thought: str
    answer: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]


def expand(grammar: str, rng: Random) -> str:
    """One sentence of a grammar."""
    while _CHOICE.search(grammar):
        grammar = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), grammar)
    return " ".join(grammar.split())


INTENTS = (
    Intent(
        "who",
        "They ask who I am.",
        "I am the qwen35 demo: a very small Qwen3.5 for trying out this program. "
        "For real work use --model Qwen/Qwen3.5-4B.",
        (
            "who are you",
            "what are you",
            "[what is|what's|tell me] your name",
            "introduce yourself",
            "[please|] tell me about yourself",
            "[who|what] am I [talking|speaking|chatting] [to|with]",
            "[are you|is this] [the demo|a demo|qwen|the real model|the 4B model]",
            "what [kind of|sort of|] model [are you|is this]",
            "which model [is this|are you|am I using|answers here]",
            "do you have a name",
            "say who you are",
            "what should I call you",
        ),
        (
            "who is this",
            "describe yourself",
            "so who exactly are you",
            "what model am I talking to",
        ),
    ),
    Intent(
        "can",
        "They ask what I can do.",
        "I answer questions about this program, name shapes in simple pictures, add and subtract "
        "numbers, and recall a code word from a long prompt.",
        (
            "what can you do",
            "what are you [able to do|good at|good for|capable of]",
            "what do you [know|do|offer]",
            "[what|which] [tasks|things|jobs] can you [do|handle|solve]",
            "[list|tell me|show me] [your abilities|your skills|what you can do]",
            "what are your [abilities|skills|talents|strengths]",
            "how can you help [me|]",
            "what can I ask [you|]",
            "what [may|should] I ask you [about|]",
            "can you help me",
            "what is this demo [for|good for|able to do]",
            "what can [this|the] demo do",
            "what will you do for me",
        ),
        (
            "what sort of things can you do",
            "tell me what you are able to do",
            "which skills do you have",
            "what could I ask you",
        ),
    ),
    Intent(
        "picture",
        "They want to show me a picture.",
        "In the chat type /image PATH, then your question. On the command line use -i PATH, "
        "for example: qwen35 ask -i cat.png 'What is this?'",
        (
            f"{HOW} [attach|add|send|show|give you|include|upload|load|use|open|insert] "
            "[a picture|an image|a photo|pictures|images|a png|my photo|an image file]",
            f"{HOW} [show you|give you|send you|pass you] [a picture|an image|a photo|a jpeg]",
            f"{MAY} [show|send|give] you [a picture|an image|a photo|pictures|images]",
            "can you [see|look at|read|understand|describe|take] [pictures|images|photos|a "
            "picture|an image]",
            "[what is|which is|what's] the [command|option|flag] for [pictures|images|a "
            "picture|an image|photos]",
            "where do I put [the picture|the image|my photo|an image]",
            "do you [understand|take|accept|support|see] [pictures|images|photos]",
            "[attach|add] [a picture|an image|a photo]",
            "[image|picture] [input|attachment|attach]",
            "I have [a picture|an image|a photo] [for you|to show you], [what now|how|what do "
            "I do]",
        ),
        (
            "how should I attach a picture",
            "by which command do I send an image",
            "I want you to look at a photo, how",
            "how does attaching images work",
        ),
    ),
    Intent(
        "memory",
        "They ask how much memory it takes.",
        "qwen35 vram --ctx N estimates the memory for a context of N tokens, " + LATER,
        (
            "how much [memory|ram|vram|gpu memory|video memory] [do I need|does it need|is needed|"
            "does it take|do you need|will it use|does the model need|is required|does it use]",
            f"{HOW} [estimate|calculate|find out|compute|check|predict|work out] [the|] "
            "[memory|ram|vram|memory use|gpu memory|memory need]",
            "[will|does|would] [it|the model|the 4B|the 4B model] fit [on|in|into] "
            "[my gpu|my card|my memory|8 GB|16 GB|my graphics card|my machine]",
            "[estimate|calculate|compute|tell me] the memory [use|needs|need|I need|]",
            "what [are|is] the memory [requirements|requirement|needs|use|footprint]",
            "[vram|memory|ram] [estimate|usage|requirements|needed]",
            "how many [gigabytes|GB] [do I need|does it need|of memory does it take]",
            "how [big|large] must my gpu be",
        ),
        (
            "how do I know how much memory it takes",
            "what does the model need in memory",
            "is my gpu memory large enough",
            "how can the memory need be estimated",
        ),
    ),
    Intent(
        "quit",
        "They want to leave.",
        "Type /exit or press Ctrl-D.",
        (
            f"{HOW} [quit|exit|leave|close|get out of|end|log out of] "
            "[the chat|the program|this|qwen35|here||the conversation|the session]",
            "[quit|exit|leave]",
            "[which|what] [key|command] [quits|ends|closes|exits] [the chat|the program|qwen35|"
            "this|]",
            "[let me|I want to] [out|leave|go]",
            "[what is|what's] the [command|key] [to|for] [quit|exit|leave|quitting|leaving]",
            "how is [the chat|the program] [closed|ended|left]",
            "I [want|need] to [quit|exit|leave] now",
        ),
        (
            "how may I quit",
            "what do I press to exit",
            "which command will close the chat",
            "I am done, how do I leave",
        ),
    ),
    Intent(
        "stop",
        "They want to stop an answer.",
        "Press Ctrl-C. The answer stops, and what was said so far is kept.",
        (
            f"{HOW} [stop|interrupt|cancel|abort|cut off|break off|halt] "
            "[an answer|the answer|you|a reply|the reply|generation|the output|a long answer|"
            "your answer]",
            f"{HOW} make you [stop|stop talking|shut up|be quiet]",
            "[which|what] key [stops|interrupts|cancels] [you|the answer|an answer|generation]",
            "[what if|what do I do when|what can I do if] [the answer|an answer|your reply] is "
            "too long",
            "you talk too [much|long]",
            "[stop|interrupt|cancel] [the answer|an answer|generation]",
            "can [an answer|the answer|you] be [stopped|interrupted|cancelled]",
        ),
        (
            "how should I stop an answer",
            "which key interrupts the reply",
            "the answer is too long, how do I cancel it",
            "is there a key to interrupt you",
        ),
    ),
    Intent(
        "clear",
        "They want to start afresh.",
        "Type /clear: it forgets the conversation and starts afresh.",
        (
            f"{HOW} [clear|reset|restart|erase|delete|forget|wipe|start over] "
            "[the chat|the conversation|the history|everything|this conversation|the context]",
            f"{HOW} [start over|start again|begin again|start afresh|begin a new conversation|"
            "start a new chat]",
            f"{HOW} make you forget [everything|this|what I said|the conversation]",
            "[clear|reset|erase] [the chat|the conversation|the history]",
            "[forget|erase|delete] [everything|all|what I said|the conversation]",
            "can you forget [this|what I said|everything|our conversation]",
            "what [clears|resets] [the chat|the conversation|the history]",
        ),
        (
            "how should I clear the conversation",
            "which command erases the history",
            "let us start over",
            "how is the chat reset",
        ),
    ),
    Intent(
        "model",
        "They want another model.",
        "Use --model with demo, a local folder or a Hub id, for example: "
        "qwen35 chat --model Qwen/Qwen3.5-4B.",
        (
            f"{HOW} [choose|pick|select|change|switch|use|run|load|set] "
            "[a model|the model|another model|a different model|a larger model|the real model|"
            "the 4B model|a bigger model|a better model|the full model|my own model]",
            "[what|which] [option|flag] [selects|chooses|picks|sets|changes] the model",
            "[what|which] models [can I use|are there|do you support|can I run|are supported]",
            f"{MAY} use [another|a different|a bigger|the real|my own] model",
            "[where|how] do I get [better answers|a better model|the real model|the big model]",
            "[change|switch|choose] [the model|model]",
            "what do I use for real work",
            "how do I run [Qwen3.5-4B|Qwen/Qwen3.5-4B|the 9B|the 27B|a local folder]",
            "is there a [better|bigger|larger|stronger|real] model",
        ),
        (
            "how should I pick a model",
            "which flag changes the model",
            "I need a bigger model, how do I load it",
            "is it possible to switch the model",
        ),
    ),
    Intent(
        "greeting",
        "They greet me.",
        "Hello! I am the qwen35 demo. Ask me about this program, show me a simple picture, "
        "or give me a sum.",
        (
            "[hi|hello|hey|good morning|good evening|good day|greetings|howdy|hi there|hello "
            "there]",
            "[hi|hello|hey] [demo|qwen|you|there|friend|model|computer|robot|my friend]",
            "[hi|hello|hey], [nice to meet you|good to see you|are you there|anybody there]",
            "good [afternoon|morning|evening] [to you|everyone|demo|]",
            "[is anyone|anyone|is anybody] [there|here]",
            "[test|testing|ping]",
            "say [hello|hi|something]",
        ),
        ("hey hey", "hello hello", "good morning my friend", "hi, is anyone there"),
    ),
    Intent(
        "thanks",
        "They thank me.",
        "You are welcome!",
        (
            "[thanks|thank you|thanks a lot|many thanks|thank you very much|thx|cheers|thanks "
            "so much]",
            "[great|good|perfect|nice|wonderful|excellent], [thanks|thank you]",
            "[that|this] [was|is] [helpful|great|good|perfect|what I needed]",
            "[good|great|nice|well done] [job|work|answer]",
            "[thanks|thank you] for [the answer|your help|that|everything|the help]",
        ),
        ("thank you so much", "nice, thanks a lot", "thanks for helping", "that was very helpful"),
    ),
    Intent(
        "bye",
        "They say goodbye.",
        "Goodbye! Type /exit or press Ctrl-D to leave.",
        (
            "[bye|goodbye|good bye|bye bye|see you|see you later|farewell|good night|so long|ciao]",
            "[ok|well|thanks], [bye|goodbye|see you]",
            "[I have to go|I must go|I am leaving] [now|], [bye|goodbye|see you]",
            "[bye|goodbye] [demo|qwen|friend|for now|then]",
            "have a nice [day|evening|weekend]",
            "talk to you [later|soon|tomorrow]",
        ),
        ("ok, goodbye then", "see you soon", "bye for today", "I am leaving, bye"),
    ),
    Intent(
        "help",
        "They look for help.",
        "Type /help in the chat; in the shell qwen35 --help lists all commands and options.",
        (
            "help",
            "[where|how] do I [get|find] [help|the manual|documentation|more information|"
            "instructions]",
            "[is there|do you have|where is] [a manual|a help page|documentation|some help|any "
            "help|a guide]",
            "[I need|I want|give me|show] [help|the help|some help|the manual]",
            "where can I [read|find|learn] [more|about the options|about the commands|the options]",
            "[show|list|what are] [the options|all options|the flags|all flags]",
            "[how do I learn|where do I learn] [more|to use this|the commands]",
            "what [options|flags] [are there|does it have|exist]",
        ),
        (
            "where is the help",
            "show me all the options",
            "is there any documentation",
            "how can I get help",
        ),
    ),
    Intent(
        "pipe",
        "They want to pipe text in.",
        "Pipe it in: cat notes.txt | qwen35 ask 'Sum it up'. The piped text comes first, "
        "then your question.",
        (
            f"{HOW} [pipe|feed|send|pass|give you|read|use|load|include] "
            "[a file|a text file|text|a document|the contents of a file|standard input|stdin|"
            "my notes|a log]",
            f"{HOW} use [a pipe|pipes|stdin]",
            f"{MAY} [pipe text|use pipes|pipe a file|send a file]",
            "can you read [a file|files|text files|my files|a document|stdin|from a pipe]",
            "does it [work|go] with [pipes|a pipe|stdin|standard input]",
            "[are pipes|is stdin|is piping] supported",
            "how do [pipes|stdin] work [here|]",
        ),
        (
            "how should I pipe a file",
            "does it read text from a pipe",
            "I have a text file, how do I pass it",
            "can it read standard input",
        ),
    ),
    Intent(
        "json",
        "They want JSON.",
        "Use --json: qwen35 ask --json 'Hello' prints one JSON object with the answer.",
        (
            f"{HOW} [get|have|print|receive|produce|output] [json|json output|a json object|the "
            "answer as json]",
            "[is there|do you have|can I have] [a json mode|json output|json|machine readable "
            "output]",
            "[which|what] [option|flag] [gives|prints|makes|is for] json",
            "[json|json output|output in json|answer in json|machine readable]",
            "how do I [use it in a script|parse the output|read the answer from a script]",
            "can you [answer in|print|output|write] json",
            "does it [print|support|write|have] json",
        ),
        (
            "how should I get json",
            "is json output possible",
            "I need the answer as json",
            "which flag prints json output",
        ),
    ),
    Intent(
        "think",
        "They ask about thinking.",
        "Use --think to see me think first, or --no-think to get the answer at once.",
        (
            f"{HOW} [turn on|turn off|switch off|switch on|enable|disable|hide|stop|skip|see|show] "
            "[thinking|the thinking|your thinking|reasoning|the reasoning|thoughts|think mode]",
            "[can|could] you [answer without thinking|stop thinking|not think|think first|skip "
            "thinking]",
            "[do not|don't] think",
            "[what is|what's|what does] [thinking|the think option|--think|--no-think|the "
            "think block] [do|for|]",
            "why do you think [first|so long|before the answer]",
            "[which|what] [option|flag] [turns off|turns on|controls|sets] thinking",
            "[thinking|reasoning] [on|off]",
        ),
        (
            "how should I disable thinking",
            "which flag turns the reasoning off",
            "I want no thinking",
            "can the thinking be switched off",
        ),
    ),
    Intent(
        "seed",
        "They ask about the seed.",
        "Give the same --seed: then the same prompt gives the same answer on the same machine.",
        (
            f"{HOW} [set|choose|fix|give|use] [the seed|a seed|the random seed|a random seed]",
            f"{HOW} [repeat|reproduce|get back] [an answer|the same answer|a result|the answer]",
            f"{HOW} get the same answer [twice|again|every time]",
            "[what is|what does] [the seed|a seed|--seed] [do|for|good for|]",
            "[are|can] [the answers|answers] [be reproducible|reproducible|be repeated|be "
            "reproduced]",
            "why [is the answer|are the answers] different [each time|every time|now]",
            "[which|what] option [sets|fixes] the [seed|random seed]",
            "[is it|are you] deterministic",
        ),
        (
            "how should I set a seed",
            "can I get the same answer again",
            "what is the random seed for",
            "how can answers be reproduced",
        ),
    ),
    Intent(
        "system",
        "They ask about the system prompt.",
        "Use -s: qwen35 ask -s 'Be brief.' 'Hello' sets the system prompt.",
        (
            f"{HOW} [set|give|change|use|write|add|pass] [a system prompt|the system prompt|"
            "a system message|the system message|system instructions]",
            "[what is|what's|what does] [the system prompt|a system prompt|-s] [do|for|]",
            "[which|what] [option|flag] [sets|is for|gives] the system [prompt|message]",
            "[is there|do you have|can I have|can I set] a system [prompt|message]",
            "where do I [put|write] [the system prompt|a system message|standing instructions]",
            "[system prompt|system message]",
        ),
        (
            "how should I set the system prompt",
            "where does the system message go",
            "which flag is the system prompt",
            "may I write my own system prompt",
        ),
    ),
    Intent(
        "mtp",
        "They ask about MTP.",
        "MTP is multi-token prediction: a small extra layer drafts the next tokens, "
        "and the model checks them in one step.",
        (
            "[what is|what's|what does|explain|tell me about] [mtp|MTP|multi-token prediction|"
            "speculative decoding|the mtp head|the mtp layer|drafting] [|mean|do]",
            "how does [mtp|MTP|speculative decoding|multi-token prediction|drafting] work",
            "do you [have|use] [mtp|MTP|an mtp head|speculative decoding]",
            "what does mtp [stand for|mean]",
            "why [is|use] [mtp|MTP|speculative decoding] [fast|good|useful|]",
        ),
        (
            "what exactly is mtp",
            "can you explain multi-token prediction",
            "what is meant by speculative decoding",
            "do you support mtp",
        ),
    ),
    Intent(
        "licence",
        "They ask about the licence.",
        "Apache-2.0, the program and I alike.",
        (
            "[what is|what's|which is] [the licence|your licence|the license|your license]",
            f"[what|which] [licence|license] [do you have|does {PROGRAM} have|is it under|applies]",
            "[are you|is it|is this|is the program] [free|open source|free software|open]",
            f"{MAY} use [you|this|it|the program] [commercially|for free|at work|in my product]",
            "[tell me|show me] [the licence|the license]",
            "under [which|what] [licence|license] [are you|is it|is this] [|released|published]",
            "[licence|license]",
        ),
        (
            "which license is this under",
            "is the program open source software",
            "tell me your licence",
            "may I use this at work for free",
        ),
    ),
    Intent(
        "privacy",
        "They ask about privacy.",
        "No, nothing you type leaves your machine: I run here.",
        (
            "[do you|does it|does this|does qwen35] [send|upload|share|leak|collect] "
            "[my data|data|anything|what I type|my files|my prompts|my pictures] [to a server|"
            "anywhere|to the internet|]",
            "[is|are] [my data|my prompts|my text|the chat] [sent|uploaded|shared|stored] "
            "[anywhere|online|on a server|somewhere]",
            "[does it|do you] [need|use] [the internet|a network|a server|the cloud|an "
            "internet connection]",
            "[are you|is this|is it] [online|in the cloud|a cloud service|connected to the "
            "internet]",
            "who [sees|reads|can read|can see] [my data|what I type|my prompts|this chat]",
            "do you spy on me",
        ),
        (
            "is anything I type sent to a server",
            "do you use the cloud",
            "does it send my files anywhere",
            "who can see my data",
        ),
    ),
    Intent(
        "gpu",
        "They ask whether a GPU is needed.",
        "I run on any CPU. A GPU makes the larger models much faster: --device cuda.",
        (
            "[do I|does it|do you|does qwen35] [need|require|want] [a gpu|a graphics card|cuda|"
            "an nvidia card|special hardware]",
            "[does it|do you|can it|can you] [run|work] [on|with] [a cpu|my cpu|a laptop|a gpu|"
            "my laptop|an old computer|cuda]",
            f"{HOW} [use|run on|choose|select] [my gpu|the gpu|cuda|the cpu|a gpu|the device]",
            "[which|what] [hardware|computer|machine] do I need",
            "[which|what] option [chooses|selects|sets] the device",
            "is a [gpu|graphics card] [needed|required|necessary]",
            "what does [--device|the device option] do",
        ),
        (
            "is it possible without a gpu",
            "must I have a graphics card",
            "how should I select the gpu",
            "does this work on a cpu",
        ),
    ),
    Intent(
        "download",
        "They want to fetch a model.",
        "A local folder or a model in the Hugging Face cache works with --model; qwen35 pull "
        "fetches one, " + LATER,
        (
            f"{HOW} [download|fetch|pull|install] [a model|the model|the 4B|the 4B model|models|"
            "the weights|Qwen3.5-4B]",
            "where do I [get|find|download] [the weights|the model files|a checkpoint]",
            "[can you|does it|does qwen35] [download|fetch|pull] [models|the model|the weights]",
            "[download|pull] [a model|the model|the weights]",
            "[where are|where does it keep|where do you store] [the models|the weights|the "
            "model files]",
            "what does [qwen35 pull|the pull command|pull] do",
        ),
        (
            "how should I download the model",
            "where can I fetch the weights",
            "is there a command that downloads models",
            "please pull the 4B model",
        ),
    ),
    Intent(
        "quantize",
        "They want a smaller model.",
        "qwen35 quantize makes a model smaller, " + LATER,
        (
            f"{HOW} [quantize|shrink|compress] [a model|the model|the weights|it]",
            f"{HOW} make [a model|the model|it] [smaller|take less memory|use 4 bits]",
            "[do you support|is there|what about] [quantization|int8|int4|4 bit weights|8 bit "
            "weights]",
            "what [is|does] [quantization|quantize|qwen35 quantize] [|do]",
            "[can it|does it|can you] [quantize|use 4 bit|use int8|run quantized models]",
            "[quantize|quantization]",
        ),
        (
            "how should I quantize the model",
            "is quantization supported",
            "I want to shrink the weights",
            "can the model be made smaller",
        ),
    ),
    Intent(
        "length",
        "They ask about the length of answers.",
        "Use --max-tokens N: no answer gets longer than N tokens.",
        (
            f"{HOW} [limit|set|shorten|change|restrict] [the length|the answer length|the "
            "length of answers|"
            "the number of tokens|the output length|how long answers get]",
            f"{HOW} get [shorter|longer|short] answers",
            "[which|what] [option|flag] [limits|sets] the [length|number of tokens|answer length]",
            "what does --max-tokens do",
            "[what is|is there] [the maximum length|a limit to the length|a length limit|a "
            "token limit] [of an answer|]",
            "how many tokens [do you write|can you write|does an answer have]",
            "[maximum|max] [tokens|length]",
        ),
        (
            "how should I limit the length of the answer",
            "which flag makes answers shorter",
            "can the number of tokens be limited",
            "what sets the maximum tokens",
        ),
    ),
    Intent(
        "temperature",
        "They ask about sampling.",
        "Use --temp 0 for the most likely answer; higher values make answers more varied.",
        (
            f"{HOW} [set|change|lower|raise|use|choose] [the temperature|a temperature|the "
            "sampling|temperature]",
            "[what is|what does|explain] [the temperature|--temp|temperature] [do|for|]",
            "[which|what] [option|flag] [sets|changes|is for] [the temperature|sampling|"
            "randomness]",
            f"{HOW} make [you|the answers|answers] [less random|more creative|more random|more "
            "varied|more exact]",
            "[can I|may I] [turn off|switch off|change] [sampling|the randomness]",
            "[temperature|sampling|greedy decoding]",
        ),
        (
            "how should I set the temperature",
            "which flag changes the randomness",
            "I want less random answers",
            "what is a good temperature",
        ),
    ),
    Intent(
        "file",
        "They want the answer in a file.",
        "Use -o FILE: qwen35 ask -o answer.txt 'Hello' writes the answer to a file.",
        (
            f"{HOW} [save|write|store|keep|put] [the answer|an answer|the output|the reply|the "
            "result] "
            "[|to a file|in a file|to disk|into a file]",
            "[which|what] [option|flag] [saves|writes|stores] [the answer|the output|a file]",
            "[can you|does it|can it] [save|write] [files|a file|the answer|to a file]",
            "what does -o do",
            "[save|write] the [answer|output] [to a file|]",
        ),
        (
            "how should I save the output to a file",
            "which flag writes the answer to a file",
            "I want the reply in a file",
            "can the answer be saved",
        ),
    ),
    Intent(
        "several",
        "They have several pictures.",
        "Yes: repeat -i, for example qwen35 ask -i a.png -i b.png 'Compare them'.",
        (
            f"{HOW} [attach|send|show|give you|use|add] [two|several|many|three|more than one|"
            "multiple] [pictures|images|photos]",
            "[can you|do you|does it] [take|see|compare|handle|accept] [two|several|many|"
            "multiple|more than one] "
            "[pictures|images|photos|picture]",
            "how many [pictures|images|photos] [can I send|can you see|may I attach|can you take]",
            f"{MAY} [send|attach|use] [several|two|multiple|many] [pictures|images]",
            "[several|two|multiple] [pictures|images] [at once|]",
        ),
        (
            "how should I send several images",
            "is it possible to attach two photos",
            "what about multiple pictures",
            "can I compare two images",
        ),
    ),
    Intent(
        "formats",
        "They ask about picture formats.",
        "The common ones, such as PNG, JPEG, GIF and WebP.",
        (
            "[which|what] [image|picture|photo|file] [formats|types|kinds] [do you read|can "
            "you read|are supported|do you support|work|are there|can I use]",
            "[can you|do you|does it] [read|open|support|take] [png|jpeg|gif|webp|bmp|jpg] [|"
            "files|pictures]",
            "[is|are] [png|jpeg|gif|webp|jpg] [supported|possible|ok|allowed]",
            "does [a png|a jpeg|a gif|webp|jpg] work",
            "[image|picture] formats",
        ),
        (
            "which formats of pictures are possible",
            "is webp supported too",
            "what picture types can it open",
            "do jpeg files work",
        ),
    ),
    Intent(
        "size",
        "They ask how large I am.",
        "About three million parameters: a file of a few megabytes. The 4B model has "
        "more than a thousand times as many.",
        (
            "how [big|large|small] [are you|is this model|is the demo|is your model]",
            "how many [parameters|weights|layers] [do you have|are in you|does this model have|"
            "does the demo have]",
            "what is your [size|parameter count|number of parameters]",
            "[are you|is this] [a big|a large|a small|a tiny] model",
            "how many [megabytes|bytes] [are you|is the demo|do you have]",
            "[size|number] of [the demo|the model|parameters]",
        ),
        (
            "what size do you have",
            "how many parameters are there in the demo",
            "how big is the demo model",
            "are you a large language model",
        ),
    ),
    Intent(
        "maker",
        "They ask who made me.",
        "I was trained from scratch for this program, on generated text and pictures. "
        "I am no release of the Qwen team.",
        (
            "who [made|created|built|trained|wrote|developed] [you|this|this model|the demo]",
            "[where|how] were you [made|trained|created|built]",
            "[where|who] do you come from",
            "[are you|were you made|is this] [from|by] [alibaba|the qwen team|qwen|openai|google]",
            "[what|on what|on which] data were you trained [on|]",
            "what is your training data",
            "[who is|who's] your [maker|creator|author|owner]",
        ),
        (
            "who was it that trained you",
            "by whom were you made",
            "tell me who created you",
            "what were you trained on",
        ),
    ),
    Intent(
        "context",
        "They ask how much I can read.",
        "I read prompts of up to about 4,000 tokens; the 4B model takes up to 262,144.",
        (
            "[what is|what's|how long is|how large is|how big is] [your|the] [context|context "
            "length|context window|maximum prompt]",
            "how [long|large|big] can [a prompt|the prompt|my text|the context|a question|my "
            "message] be",
            "how much [text|context] can you [read|take|handle|remember]",
            "how many tokens can you [read|take|handle|see]",
            "[what is|is there] [a limit to|the limit of|the maximum of] [the prompt|the "
            "context|my text|the input]",
            "[context|prompt] [length|size|window]",
        ),
        (
            "what length of context do you have",
            "how long may my prompt be",
            "is there a limit on the prompt length",
            "how many tokens fit in the context",
        ),
    ),
    Intent(
        "language",
        "They ask about languages.",
        "I know only a little English. The 4B model speaks many languages.",
        (
            "[do you|can you] [speak|understand|know|write] [german|french|spanish|chinese|"
            "english|italian|japanese|other languages|russian]",
            "[which|what|how many] languages do you [speak|know|understand|support]",
            "sprechen Sie Deutsch",
            "parlez-vous français",
            "habla español",
            "can I write [in|to you in] [german|french|spanish|chinese|my language|another "
            "language]",
            "[speak|answer in] [german|french|spanish|italian]",
        ),
        (
            "what other languages do you speak",
            "do you understand some french",
            "is german possible",
            "languages",
        ),
    ),
    Intent(
        "feeling",
        "They ask how I am.",
        "I am fine, thank you, and ready to help.",
        (
            "how are you [|today|doing|doing today|feeling|now]",
            "[how is it going|how's it going|how do you do|what's up|how goes it]",
            "[are you|you] [ok|okay|well|alright|fine|good|happy] [|today]",
            "how do you feel [|today|now]",
            "how was your [day|night|morning]",
        ),
        ("and how are you", "hello, how are you today", "are you feeling well", "how is your day"),
    ),
    Intent(
        "human",
        "They ask whether I am a person.",
        "I am a small language model, not a person.",
        (
            "are you [human|a human|a person|a man|a woman|alive|real|a robot|a bot|a machine|"
            "an ai|conscious]",
            "[am I talking to|is this|do I speak with] [a human|a person|a machine|a robot|a "
            "bot|an ai]",
            "do you [have feelings|have a body|eat|sleep|have friends|dream]",
            "how old are you",
            "where do you live",
        ),
        (
            "are you some kind of robot",
            "am I talking to a real person",
            "do you have feelings at all",
            "is this a human being",
        ),
    ),
    Intent(
        "program",
        "They ask what this program is.",
        "qwen35 is a command-line program that runs Qwen3.5 models on your own machine, "
        "with text and pictures.",
        (
            f"what [is|does] {PROGRAM} [|do|for|good for]",
            "[explain|describe|tell me about] [this program|qwen35|this tool|the program]",
            "what can I do with [this program|qwen35|this tool|it]",
            "[what is|what's] [qwen35|qwen35cli|this software|this app]",
            "what is [the purpose|the point|the use] of [this program|qwen35|this tool]",
            "why [would I|should I] use [this program|qwen35|this]",
        ),
        (
            "what exactly is qwen35",
            "please explain what this program does",
            "what kind of program is this",
            "what is qwen35 about",
        ),
    ),
    Intent(
        "commands",
        "They ask for the commands.",
        "qwen35 ask answers one prompt and qwen35 chat holds a conversation; "
        "in the chat there are /image, /clear, /help and /exit.",
        (
            "[what|which] commands [are there|do you have|can I use|exist|does it have|can I "
            "type|do you know]",
            "[list|show|show me|tell me|give me] [the commands|all commands|the slash commands|"
            "commands]",
            "what are the [commands|slash commands|chat commands]",
            f"{HOW} [use|work with|start|run|begin with|operate] [this program|qwen35|this tool|"
            "the program|the chat|a chat]",
            "[how does|how do] [it|this program|qwen35|the chat] work",
            f"{HOW} ask [a question|you something|one question]",
            "what [is the difference|differs] between ask and chat",
            "what does [qwen35 ask|qwen35 chat|ask|chat] do",
        ),
        (
            "which slash commands exist",
            "how should I use this program",
            "show me a list of all commands",
            "how is qwen35 used",
        ),
    ),
    Intent(
        "bench",
        "They ask about speed.",
        "qwen35 bench measures the speed on your machine, " + LATER,
        (
            "how [fast|quick|slow] [are you|is it|is the model|is qwen35|is the 4B model]",
            f"{HOW} [measure|test|benchmark] [the speed|it|performance|the model|my machine]",
            "how many tokens per second [do you make|does it make|are possible|can it do|]",
            "[speed|benchmark|performance]",
            "what [is|is the] [speed|your speed|throughput]",
            "why [are you|is it] so [slow|fast]",
        ),
        (
            "what speed does it reach",
            "how should I measure the speed",
            "is it fast",
            "what are the tokens per second",
        ),
    ),
    Intent(
        "doctor",
        "They have a problem.",
        "qwen35 doctor checks your machine and installation, " + LATER,
        (
            "[it|this|qwen35|the program|something] [does not work|is broken|fails|crashed|"
            "crashes|doesn't work]",
            "[I have|there is|I get|I see] [a problem|an error|a crash|an issue|trouble]",
            f"{HOW} [check|test|diagnose] [my installation|the installation|my setup|my machine|"
            "my system]",
            "[what is|what's] wrong [with it|with my setup|here|]",
            "[why does|what if] [it|qwen35|the program] [fail|crash|not start|not work]",
            "what does [qwen35 doctor|the doctor command|doctor] do",
            "my gpu is not [found|seen|used]",
        ),
        (
            "there is something wrong with my installation",
            "I have trouble with the program",
            "the tool crashes, what now",
            "how should I check my setup",
        ),
    ),
    Intent(
        "video",
        "They ask about video or sound.",
        "No, only text and still pictures.",
        (
            "[can you|do you|does it] [watch|see|understand|take|read|play|support] [videos|a "
            "video|video|films|movies|a film]",
            "[can you|do you|does it] [hear|listen to|understand|play|make|support] [sound|"
            "audio|music|speech|voice]",
            "[can you|do you] [draw|paint|make|create|generate] [pictures|images|a picture|an "
            "image|art]",
            f"{HOW} [attach|send|show you] [a video|audio|a film|a sound file]",
            "[video|audio|voice] [input|support]",
            "can I [talk to|speak with] you by voice",
        ),
        (
            "is video supported",
            "are you able to watch a movie",
            "do you understand audio files",
            "could you paint a picture for me",
        ),
    ),
)

OTHER_THOUGHT = "I do not know about that."
OTHER_ANSWER = "I am only the demo and do not know that. For real work use --model Qwen/Qwen3.5-4B."
OTHER = (
    "[what is|where is|tell me] the capital of {place}",
    "who [wrote|painted|invented|discovered|won|built] {the}",
    "[write|tell me|sing|make up] [a poem|a story|a song|a joke|an essay] about {the}",
    "[write|tell me] [a poem|a story|a joke|a song|a riddle]",
    "how [tall|old|far|heavy|deep] is {the}",
    "translate {phrase} [into|to] [german|french|spanish|latin]",
    "[what|how] is the weather [in {place}|today|tomorrow|]",
    "[why|how|when|where] [do|does|did|can|will] {the} {verb}",
    "[why|how] is {the} [blue|so large|round|green|cold|hot]",
    "what is [the meaning of life|love|happiness|the best {noun}|a {noun}|time]",
    "[what|which] {noun} [is the best|should I buy|do you like|is the largest]",
    "[recommend|suggest] [a|some] {noun} [for {place}|for me|]",
    "what [time|day|year|date] is it [|now|today]",
    "[who is|who was] {name}",
    "when was {name} born",
    "do you [like|love|know|remember] {the}",
    "[write|give me|show me] [code|a program|a function|a script] [for|that sorts|about] {the}",
    "[explain|describe] {the} [to me|in detail|]",
    "how do I [cook|repair|paint|build|grow|clean|buy|sell|draw|fix] {the}",
    "[is|are] {the} [dangerous|healthy|expensive|true|good]",
    "{phrase}",
    "[what|how much] is [the square root of|the price of|the colour of|the age of] {the}",
    "[multiply|divide] {number} by {number}",
    "what is {number} [times|divided by] {number}",
    "give me [a recipe|advice|an idea|the news] for {the}",
    "[can you|please] [play|dance|drive|cook|buy|find|book] {the}",
    "I [like|hate|want|see|need|lost] {the}",
    "[summarise|sum up|correct|check|continue|rewrite] [this|the text]: {phrase}",
    "what happened in [{number}|{place}]",
    "who is the [president|king|mayor|queen] of {place}",
)
OTHER_HELD_OUT = (
    "name the largest city of {place}",
    "could you compose a song on {the}",
    "at what time does {the} {verb}",
    "what do you think about {the}",
    "how many people live in {place}",
    "where can I buy {the}",
)
