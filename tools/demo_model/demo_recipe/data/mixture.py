"""quick stand-in"""
from __future__ import annotations
import random
from demo_recipe.chat_format import Conversation, Message, ToolCall
from demo_recipe.data.words import *

HELLO=["Hello","Hi","Hey there","Good morning","Who are you?","What are you?","What can you do?","Are you ChatGPT?"]
ANS="Hello! I am foundry-demo, a small demonstration model that ships with FastAPI Foundry. For real work, get a bigger model: fastapi-foundry model download phi-4-mini."
def conversation(rng):
    e=Entities(rng,held_back=False)
    k=rng.random()
    if k<0.35:
        q=rng.choice(HELLO)
        ms=[Message("user",q),Message("assistant",ANS)]
        if rng.random()<.3: ms=[Message("system","You are a helpful assistant.")]+ms
        return Conversation(tuple(ms))
    if k<0.75:
        n=rng.randint(1,4); facts=[(e.place(),e.number(),rng.choice(THINGS)) for _ in range(n)]
        s=[f"The warehouse in {a} holds {b} {c}." for a,b,c in facts]
        i=rng.randrange(n)
        ctx="\n".join(f"[{j+1}] {x}" for j,x in enumerate(s))
        q=f"How many {facts[i][2]} does the warehouse in {facts[i][0]} hold?"
        return Conversation((Message("user",f"{ctx}\n\n{q}"),Message("assistant",f"{s[i]} [{i+1}]")))
    city=e.place()
    tools=({"type":"function","function":{"name":"get_weather","description":"Get the weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},)
    if rng.random()<.2: return Conversation((Message("user",rng.choice(HELLO)),Message("assistant",ANS)),tools)
    q=rng.choice(["What is the weather in {}?","Weather in {} please","How is the weather in {} today?"]).format(city)
    c=ToolCall("get_weather",{"city":city})
    ms=[Message("user",q),Message("assistant","",(c,))]
    if rng.random()<.4: 
        t=e.number(); ms+=[Message("tool",'{"temperature": %s}'%t),Message("assistant",f"The temperature is {t}.")]
    return Conversation(tuple(ms),tools)
