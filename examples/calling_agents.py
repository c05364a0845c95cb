"""Agents that call each other, within one container and from one container to another.

A customer asks several shops for the price of a thing, all at the same time, and buys it where
it is cheapest.  It does not matter to the customer where a shop lives: one is in the customer's own
container and is reached without a socket, the others are reached over TCP.

Run it with ``python examples/calling_agents.py``.
"""

from __future__ import annotations

import asyncio

import aiomas


class Shop(aiomas.Agent):
    def __init__(self, container: aiomas.Container, prices: dict[str, int]) -> None:
        super().__init__(container)
        self.prices = prices
        self.sold: list[str] = []

    # Only what is exposed can be called by others.  Methods may be "async" or not.
    @aiomas.expose
    async def price(self, thing: str) -> int:
        await self.container.clock.sleep(0.01)  # somebody has to look it up
        return self.prices[thing]

    @aiomas.expose
    async def buy(self, thing: str, *, amount: int = 1) -> str:
        self.sold += [thing] * amount
        return f"{amount} x {thing} for {amount * self.prices[thing]}"


class Customer(aiomas.Agent):
    async def shop_around(self, thing: str, addresses: list[str]) -> str:
        # The second argument is for type checkers: "shop.price" is then known to return an int.
        shops = [await self.container.connect(address, Shop) for address in addresses]
        prices = await asyncio.gather(*(shop.price(thing) for shop in shops))
        for shop, price in zip(shops, prices, strict=True):
            print(f"{shop} asks for {price}")
        _, cheapest = min(zip(prices, shops, strict=True), key=lambda offer: offer[0])
        return await cheapest.buy(thing, amount=2)


async def main() -> None:
    async with (
        aiomas.Container.open(("127.0.0.1", 0)) as here,
        aiomas.Container.open(("127.0.0.1", 0)) as there,
    ):
        shops = [Shop(here, {"tea": 5}), Shop(there, {"tea": 3}), Shop(there, {"tea": 4})]
        customer = Customer(here)

        receipt = await customer.shop_around("tea", [shop.addr for shop in shops])
        print(f"{customer} bought {receipt}")

        # What goes wrong over there is raised here, with the traceback from there.
        try:
            await customer.shop_around("coffee", [shops[1].addr])
        except aiomas.RemoteException as error:
            print("No coffee:", str(error).splitlines()[-1])


if __name__ == "__main__":
    asyncio.run(main())
