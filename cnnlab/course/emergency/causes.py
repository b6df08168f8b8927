"""The causes a patient can have, each with a test that confirms it or rules it out."""

# Cause -> how to test for it. A wrong guess is answered with this test, so it never says what the
# patient has instead.
TESTS = {
    "missing zero_grad": "compare the second step's gradient with the one of that batch alone",
    "view instead of permute": "plot one image as the model receives it",
    "broadcasting in the loss": "print the shapes of prediction, target and difference",
    "softmax before cross-entropy": "sum the outputs of the model over the classes",
    "labels shifted by one": "show ten images with their labels, as the loss receives them",
    "data in sorted order": "print the labels of the first three batches of an epoch",
    "optimizer lacks the new head": "compare the weights of every layer before and after one step",
    "frozen layers still updated": "compare the frozen weights before and after training",
    "batch norm in training mode at inference": "predict one image alone, and among others",
    "wrong normalisation": "compare mean and standard deviation of the input in training and later",
    "colour channels swapped": "plot a training image and a new one, as the model receives them",
    "augmented validation images": "evaluate the same model twice and compare the two accuracies",
    "training images in validation": "look for the nearest training image of ten validation images",
    "scheduler stepped at the wrong time": "print the learning rate of every step",
    "clipping before unscaling": "print the gradient norm that the clipping sees",
    "accumulation without division": "compare the gradient with that of one large batch",
    "random numbers repeated": "print the first random number of every worker, image or epoch",
    "mean of batch means": "count the correct predictions and divide by the number of images",
    "averaged weights without buffers": "compare the batch-norm statistics of the two models",
    "imbalance corrected twice": "count the classes in ten batches, times their loss weights",
    "best weights not copied": "evaluate the weights you kept, again, at the end of training",
    "training mode not restored after validation": "print model.training as each epoch starts",
    "dropout active at inference": "predict the same image twice",
    "gradient cut by detach": "print which parameters have a gradient after backward",
    "labels changed by augmentation": "show ten augmented images with their labels",
    "argmax over the wrong dimension": "print the shape of the predictions",
    "statistics of the test set": "predict ten images alone, and again as part of the whole set",
    "one random draw for the whole batch": "show the images of one batch after augmentation",
    "gradients vanish": "print the gradient norm of each layer",
    "learning rate too high": "divide it by ten and look at the first hundred losses",
    "learning rate too low": "multiply it by ten and look at the first hundred losses",
    "too few epochs": "plot the validation accuracy and the learning rate, epoch by epoch",
    "network too small": "try to overfit one batch",
    "overfitting": "compare training and validation accuracy, epoch by epoch",
    "wrong initialisation": "print the standard deviation of every layer's output before training",
    "noisy labels": "look at the training images with the largest loss",
}

CAUSES = tuple(sorted(TESTS))
