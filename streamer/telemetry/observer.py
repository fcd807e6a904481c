"""What the engine reports, turned into metrics and health."""
from __future__ import annotations
from contextlib import asynccontextmanager
class Telemetry:
    def __init__(self, settings, roles): self.total=0; self.sec={}; self.facts={}; self.ready=0; self.n=0
    @asynccontextmanager
    async def serving(self): yield
    def waiting(self, why): print(why)
    def loading_items(self, share): pass
    def model(self, manifest, items, follower): pass
    def stopping(self): pass
    def state(self, role, partition, state, share=0.0):
        self.ready += state=='ready'
    def rebuilt(self, reason): pass
    def transaction(self, role, result): pass
    def batch(self, role, records, effects, seconds):
        self.total+=len(records); self.n+=1
        for k,v in seconds.items(): self.sec[k]=self.sec.get(k,0)+v
        for k,v in effects.facts.items(): self.facts[k]=self.facts.get(k,0)+v
        self.out=getattr(self,'out',__import__('collections').Counter()); self.out.update(effects.outcomes)
