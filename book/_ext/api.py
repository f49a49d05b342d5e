"""The library's page shows how a layer is made by its own arguments, which Keras hides behind `*args, **kwargs`."""

import inspect


def own_signature(app, what, name, obj, options, signature, return_annotation):
    if what == "class" and signature == "(*args, **kwargs)":
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        return str(inspect.Signature(parameters)), return_annotation


def setup(app):
    app.connect("autodoc-process-signature", own_signature)
    return {"parallel_read_safe": True}
