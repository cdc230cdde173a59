import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss


class Linear:
    def model(self):
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
        return model.partial_fit(np.zeros((2, 30)), [0, 1], classes=[0, 1])  # tells it shapes and classes

    def data(self, source):
        samples = source.tensors()
        return samples["x"].double().numpy(), samples["y"].numpy()

    def arrays(self, model):
        return {"coef": model.coef_, "intercept": model.intercept_}

    def load(self, model, arrays):
        model.coef_, model.intercept_ = arrays["coef"], arrays["intercept"]

    def fit(self, model, data, context):
        x, y = data
        model.set_params(random_state=context.seed)
        for _ in range(context.epochs):
            model.partial_fit(x, y)
        return {"loss": log_loss(y, model.predict_proba(x), labels=[0, 1])}

    def evaluate(self, model, data, context):
        x, y = data
        return {"accuracy": model.score(x, y), "loss": log_loss(y, model.predict_proba(x), labels=[0, 1])}
