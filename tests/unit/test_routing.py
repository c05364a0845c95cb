"""Routers: what can be called, what cannot, and the way back from an object to its path."""

from __future__ import annotations

import copy
import dataclasses
import gc
import types
import weakref
from typing import Any

import pytest

from aiomas.routing import Router, RoutingDict, Service, ServiceDict, expose, router_of
from aiomas.rpc import Proxy


class Eggs:
    router = Service()

    @expose
    def fry(self, how="sunny side up"):
        return f"fried {how}"


class Spam:
    """Has one of everything."""

    router = Service(["eggs"])
    exposed_class_attribute = expose(lambda self: "class attribute")

    def __init__(self):
        self.eggs = Eggs()
        self.unregistered = Eggs()
        self.proxy = Proxy(None, "somewhere")  # type: ignore[arg-type]
        self.instance_function = expose(lambda: "instance function")
        self.data = {"key": expose(lambda: "in a plain dictionary")}
        self.runs = 0

    @expose
    def cook(self, n, *, sauce="none"):
        return n, sauce

    @Service.expose
    async def cook_slowly(self):
        return "slow"

    @expose
    @staticmethod
    def static():
        return "static"

    @staticmethod
    @Router.expose
    def static_inside():
        return "static inside"

    @expose
    @classmethod
    def of_class(cls):
        return cls.__name__

    @classmethod
    @expose
    def of_class_inside(cls):
        return cls.__name__

    @staticmethod
    def hidden_static():
        raise AssertionError("must not be called")

    @classmethod
    def hidden_of_class(cls):
        raise AssertionError("must not be called")

    def hidden(self):
        raise AssertionError("must not be called")

    @expose
    def _private(self):
        raise AssertionError("must not be called")

    @expose
    def __dunder__(self):
        raise AssertionError("must not be called")

    @property
    def watched(self):
        self.runs += 1
        return expose(lambda: None)


@pytest.fixture
def spam() -> Spam:
    return Spam()


class TestExpose:
    def test_the_function_is_not_wrapped_but_marked(self):
        def function():
            pass

        assert expose(function) is function
        assert function.__rpc__ is True  # type: ignore[attr-defined]

    @pytest.mark.parametrize("thing", [5, "name", property(lambda self: 1)])
    def test_only_functions_can_be_exposed(self, thing):
        with pytest.raises(TypeError, match="Only functions"):
            expose(thing)

    def test_router_and_service_have_it_as_well(self):
        def one():
            pass

        def two():
            pass

        assert Router.expose(one).__rpc__ is True  # type: ignore[attr-defined]
        assert Service.expose(two).__rpc__ is True  # type: ignore[attr-defined]


class TestWhatCanBeCalled:
    def test_an_exposed_method(self, spam):
        assert spam.router.resolve("cook")(1, sauce="hot") == (1, "hot")

    async def test_an_exposed_coroutine_function(self, spam):
        assert await spam.router.resolve("cook_slowly")() == "slow"

    @pytest.mark.parametrize(
        ("path", "result"),
        [
            ("static", "static"),
            ("static_inside", "static inside"),
            ("of_class", "Spam"),
            ("of_class_inside", "Spam"),
            ("exposed_class_attribute", "class attribute"),
            ("instance_function", "instance function"),
            ("eggs/fry", "fried sunny side up"),
        ],
    )
    def test_other_kinds_of_functions(self, spam, path, result):
        assert spam.router.resolve(path)() == result

    def test_methods_that_are_inherited(self):
        class Bacon(Spam):
            pass

        assert Bacon().router.resolve("cook")(1) == (1, "none")

    def test_functions_of_a_class(self):
        router = Router(Spam)

        assert router.resolve("static")() == "static"
        assert router.resolve("of_class")() == "Spam"
        assert router.resolve("cook")(None, 3) == (3, "none")

    def test_functions_of_a_module(self):
        module = types.ModuleType("a_module")
        module.visible = expose(lambda: "yes")  # type: ignore[attr-defined]
        module.hidden = lambda: "no"  # type: ignore[attr-defined]

        assert Router(module).resolve("visible")() == "yes"
        with pytest.raises(LookupError):
            Router(module).resolve("hidden")

    def test_functions_of_a_plain_dictionary(self):
        router = Router({"visible": expose(lambda: "yes"), "hidden": lambda: "no"})

        assert router.resolve("visible")() == "yes"
        with pytest.raises(LookupError):
            router.resolve("hidden")


class TestWhatCannotBeCalled:
    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/cook",
            "cook/",
            "eggs//fry",
            "nothing",
            "nothing/at/all",
            "hidden",
            "hidden_static",
            "hidden_of_class",
            "_private",
            "__dunder__",
            "__class__",
            "__init__",
            "eggs",
            "eggs/",
            "eggs/_private",
            "eggs/router",
            "router",
            "router/resolve",
            "unregistered",
            "unregistered/fry",
            "proxy",
            "proxy/anything",
            "data",
            "data/key",
            "data/get",
            "cook/__call__",
            "cook/__globals__",
            "runs",
        ],
    )
    def test_nothing_is_there(self, spam, path):
        with pytest.raises(LookupError, match="no exposed function"):
            spam.router.resolve(path)

    def test_the_code_of_a_property_is_not_run(self, spam):
        with pytest.raises(LookupError):
            spam.router.resolve("watched")
        assert spam.runs == 0

    def test_an_object_that_has_an_answer_for_any_name_is_not_asked(self):
        class Anything:
            router = Service()

            def __getattr__(self, name):
                raise AssertionError("must not be asked")

        with pytest.raises(LookupError):
            Anything().router.resolve("x")

    def test_a_method_that_hides_an_exposed_one_is_not_exposed(self):
        class Bacon(Spam):
            def cook(self, n, *, sauce="none"):
                raise AssertionError("must not be called")

        with pytest.raises(LookupError):
            Bacon().router.resolve("cook")

    def test_an_exposed_attribute_that_cannot_be_called(self):
        class Marked:
            __rpc__ = True

        class Holder:
            router = Service()
            thing = Marked()

        with pytest.raises(LookupError):
            Holder().router.resolve("thing")

    @pytest.mark.parametrize("path", ["_key", "get", "keys", "sub/get", ""])
    def test_methods_and_private_keys_of_a_dictionary(self, path):
        function = expose(lambda: None)
        router = Router({"_key": function, "sub": {"get": function}, "": function})

        with pytest.raises(LookupError):
            router.resolve(path)

    def test_a_path_of_millions_of_slashes_is_not_looked_at(self, spam):
        class Path(str):
            __slots__ = ()

            def split(self, *args):
                raise AssertionError

        with pytest.raises(LookupError) as caught:
            spam.router.resolve(Path("/" * 8_000_000))
        assert len(str(caught.value)) < 1000
        for length in (4096, 4097):
            with pytest.raises(LookupError):
                spam.router.resolve("x" * length)


class TestHierarchy:
    def test_a_root_router_has_neither_name_nor_parent(self, spam):
        router = spam.router

        assert router.obj is spam
        assert (router.name, router.parent, router.path) == ("", None, "")
        assert router.root is router

    def test_a_listed_attribute_is_a_child(self, spam):
        parent, child = spam.router, spam.eggs.router

        assert (child.name, child.parent, child.path) == ("eggs", parent, "eggs")
        assert child.root is parent

    def test_the_path_leads_back_to_the_same_object(self, spam):
        root = RoutingDict({"a": spam})

        assert spam.eggs.router.path == "a/eggs"
        assert root.router.resolve(spam.eggs.router.path + "/fry")() == "fried sunny side up"
        assert "a/eggs" in repr(spam.eggs.router)

    def test_add_registers_an_attribute(self, spam):
        spam.router.add("unregistered")

        assert spam.unregistered.router.path == "unregistered"
        assert spam.router.resolve("unregistered/fry")("hard") == "fried hard"

    def test_add_registers_an_item_of_a_dictionary(self):
        eggs = Eggs()
        router = Router({"eggs": eggs})

        router.add("eggs")

        assert router.resolve("eggs/fry")() == "fried sunny side up"
        assert eggs.router.path == "eggs"

    @pytest.mark.parametrize("name", ["nothing", "data", "proxy", "cook", "runs"])
    def test_add_refuses_what_has_no_router(self, spam, name):
        with pytest.raises(LookupError, match=f"no '{name}' with a router"):
            spam.router.add(name)

    def test_a_service_that_lists_what_has_no_router_is_a_lookup_error(self):
        class Wrong:
            router = Service(["nothing"])

        with pytest.raises(LookupError, match="nothing"):
            _ = Wrong().router

    def test_set_sub_router_takes_any_router_under_any_name(self):
        root, leaf = Router({}), Router({"f": expose(lambda: "leaf")})

        root.set_sub_router(leaf, "a name")

        assert root.resolve("a name/f")() == "leaf"
        assert leaf.path == "a name"

    def test_to_register_the_same_again_does_nothing(self, spam):
        spam.router.add("eggs")

        assert spam.router.resolve("eggs/fry")() == "fried sunny side up"

    def test_a_router_has_one_place(self, spam):
        with pytest.raises(ValueError, match="already"):
            spam.router.set_sub_router(spam.eggs.router, "other")
        with pytest.raises(ValueError, match="already"):
            Router({}).set_sub_router(spam.eggs.router, "eggs")

    @pytest.mark.parametrize("name", ["", "a/b"])
    def test_a_name_has_to_fit_into_a_path(self, spam, name):
        with pytest.raises(ValueError, match="name"):
            spam.router.set_sub_router(Router({}), name)


class TestService:
    def test_each_instance_has_one_router_of_its_own(self):
        one, two = Spam(), Spam()

        assert one.router is one.router
        assert one.router is not two.router

    def test_the_class_has_the_service_itself(self):
        assert isinstance(Spam.router, Service)
        assert Spam.router.sub_routers == ("eggs",)

    def test_a_router_cannot_be_replaced(self, spam):
        with pytest.raises(AttributeError):
            spam.router = Router(spam)

    def test_a_router_goes_with_its_object(self):
        spam = Spam()
        assert spam.router is not None
        freed = weakref.ref(spam)
        del spam

        gc.collect()
        assert freed() is None

    def test_instances_without_room_for_a_router_have_one_each_even_if_they_are_equal(self):
        @dataclasses.dataclass(frozen=True, slots=True)
        class Slotted:
            names: list[str] = dataclasses.field(default_factory=list)
            router = Service()

            @expose
            def me(self):
                return self

        one, two = Slotted(), Slotted()

        assert one.router is one.router
        assert one.router.resolve("me")() is one
        assert two.router.resolve("me")() is two

    def test_a_subclass_may_place_routers_somewhere(self):
        root = Router({})

        class Placing(Service):
            def make_router(self, instance):
                router = super().make_router(instance)
                root.set_sub_router(router, "placed")
                return router

        class Thing:
            router = Placing()

        assert Thing().router.path == "placed"


@pytest.mark.parametrize("cls", [RoutingDict, ServiceDict])
class TestRoutingDict:
    def test_it_wraps_a_dictionary(self, cls):
        wrapped: dict[str, Any] = {}

        assert cls(wrapped).dict is wrapped
        assert cls(dict=wrapped).dict is wrapped
        assert cls().dict == {}

    def test_its_functions_can_be_called(self, cls):
        service = cls({"visible": expose(lambda: "yes"), "hidden": lambda: "no"})

        assert service.router.resolve("visible")() == "yes"
        with pytest.raises(LookupError):
            service.router.resolve("hidden")

    def test_functions_may_come_and_go(self, cls):
        service = cls()
        service.dict["f"] = expose(lambda: "f")
        assert service.router.resolve("f")() == "f"

        del service.dict["f"]
        with pytest.raises(LookupError):
            service.router.resolve("f")

    def test_objects_in_it_are_registered_from_the_beginning(self, cls):
        spam = Spam()
        service = cls({"a": spam, "b": 5})

        assert spam.router.path == "a"
        assert spam.eggs.router.path == "a/eggs"
        assert spam.router.root is service.router

    def test_objects_that_come_later_are_registered(self, cls):
        one, two = Eggs(), Eggs()
        service = cls()
        service["one"] = one
        service.dict["two"] = two

        assert one.router.path == "one"
        assert service.router.resolve("two/fry")() == "fried sunny side up"
        assert two.router.path == "two"

    def test_objects_that_have_gone_cannot_be_called(self, cls):
        service = cls({"eggs": Eggs()})
        del service["eggs"]

        with pytest.raises(LookupError):
            service.router.resolve("eggs/fry")

    def test_any_router_can_be_registered(self, cls):
        service = cls()
        service.router.set_sub_router(Router({"f": expose(lambda: "leaf")}), "sub")

        assert service.router.resolve("sub/f")() == "leaf"

    def test_it_may_hold_another(self, cls):
        inner = cls({"eggs": Eggs()})
        outer = cls({"inner": inner})

        assert outer.router.resolve("inner/eggs/fry")() == "fried sunny side up"
        assert inner.dict["eggs"].router.path == "inner/eggs"

    def test_an_object_keeps_its_first_place(self, cls):
        spam = Spam()
        cls({"first": spam})
        cls({"second": spam})

        assert spam.router.path == "first"

    def test_it_is_a_dictionary_itself(self, cls):
        service = cls({"a": 1})
        service["b"] = 2

        assert dict(service) == {"a": 1, "b": 2}
        assert len(service) == 2
        assert service["b"] == 2
        del service["a"]
        assert "a" not in service
        assert repr(service) == "RoutingDict({'b': 2})"


def test_the_two_names_of_the_dictionary_are_one_class():
    assert ServiceDict is RoutingDict


class TestRouterOf:
    def test_the_router_of_a_router_is_itself(self):
        router = Router({})
        assert router_of(router) is router

    def test_an_object_with_a_service_has_a_router(self, spam):
        assert router_of(spam) is spam.router

    def test_a_dictionary_service_has_a_router(self):
        service = RoutingDict()
        assert router_of(service) is service.router

    def test_an_object_may_hold_a_router_that_it_made(self):
        holder = types.SimpleNamespace()
        holder.router = Router(holder)

        assert router_of(holder) is holder.router

    def test_a_class_may_hold_a_router_that_it_made(self):
        class Thing:
            pass

        Thing.router = Router(Thing)  # type: ignore[attr-defined]

        assert router_of(Thing) is Thing.router  # type: ignore[attr-defined]

    @pytest.mark.parametrize("thing", [None, 5, {}, Spam, types.SimpleNamespace(router="no")])
    def test_anything_else_has_none(self, thing):
        assert router_of(thing) is None

    def test_a_proxy_has_none(self, spam):
        assert router_of(spam.proxy) is None


class Leaf:
    router = Service()

    @expose
    def hi(self):
        return "hi"


class WithPrivate:
    router = Service(["_leaf"])

    def __init__(self):
        self._leaf = Leaf()


@pytest.mark.parametrize("router", [RoutingDict({"_leaf": Leaf()}).router, WithPrivate().router])
def test_a_child_with_a_private_name_is_not_reached(router):
    with pytest.raises(LookupError, match="_leaf/hi"):
        router.resolve("_leaf/hi")


class Late:
    router = Service(["leaf"])


def test_a_router_is_kept_only_if_it_is_complete():
    late = Late()
    for _ in range(2):
        with pytest.raises(LookupError, match="leaf"):
            _ = late.router
    late.leaf = Leaf()  # type: ignore[attr-defined]
    assert late.router.resolve("leaf/hi")() == "hi"


class Pair:
    router = Service(["first", "second"])

    def __init__(self, first):
        self.first = first


def test_children_of_an_incomplete_router_are_free_again():
    leaf = Leaf()
    with pytest.raises(LookupError, match="second"):
        _ = Pair(leaf).router
    assert leaf.router.parent is None
    pair = Pair(leaf)
    pair.second = Leaf()  # type: ignore[attr-defined]
    assert pair.router.resolve("first/hi")() == "hi"


def test_a_copy_has_a_router_of_its_own():
    original = Leaf()
    assert original.router.obj is original
    duplicate = copy.copy(original)
    assert duplicate.router is not original.router
    assert duplicate.router.obj is duplicate


def test_the_names_of_children_are_a_list():
    with pytest.raises(TypeError, match="list of names"):
        Service("leaf")


def test_what_has_left_a_dict_can_go_elsewhere():
    leaf = Leaf()
    services = RoutingDict({"x": leaf})
    assert leaf.router.path == "x"
    del services["x"]
    services["y"] = leaf
    assert leaf.router.path == "y"
    services["y"] = Leaf()
    assert leaf.router.parent is None


def test_an_object_under_two_keys_keeps_the_first_one():
    leaf = Leaf()
    services = RoutingDict({"a": leaf, "b": leaf})
    del services["b"]
    assert leaf.router.path == "a"
    assert services.router.resolve("a/hi")() == "hi"


def test_what_has_no_router_to_give_is_neither_stored_nor_in_the_way():
    services = RoutingDict()
    with pytest.raises(LookupError, match="leaf"):
        services["late"] = Late()
    assert not services
    services.dict["late"] = Late()  # past the dictionary's own checks
    services["late"] = Leaf()
    assert services.router.resolve("late/hi")() == "hi"
    services.dict["late"] = Late()
    del services["late"]
    assert not services


class Child:
    router = Service()

    def __init__(self, parent):
        self.path = parent.router.path


class Parent:
    router = Service(["child"])

    @property
    def child(self):
        if not hasattr(self, "_child"):
            self._child = Child(self)
        return self._child


def test_a_child_may_ask_for_the_router_of_its_parent():
    parent = Parent()
    assert parent.router.path == ""
    assert parent.child.router.path == "child"


class Snake:
    router = Service(["tail"])

    @property
    def tail(self):
        return self


def test_nothing_is_a_part_of_itself():
    for _ in range(2):
        with pytest.raises(ValueError, match="part of itself"):
            _ = Snake().router
    one, other = Leaf(), Leaf()
    one.router.set_sub_router(other.router, "other")
    with pytest.raises(ValueError, match="part of itself"):
        other.router.set_sub_router(one.router, "one")
