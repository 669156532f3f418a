// Drop a picture, ask, read the answer while it is made: valley2_qt BUNDLE
#include <QApplication>
#include <QCommandLineParser>

#include "driver.hpp"
#include "window.hpp"

int main(int argc, char **argv) {
    QApplication application(argc, argv);
    QCommandLineParser arguments;
    arguments.addHelpOption();
    arguments.addPositionalArgument("bundle", "The directory that valley2-edge export has made.");
    Driver::declareOptions(arguments);
    arguments.process(application);
    if (arguments.positionalArguments().size() != 1)
        arguments.showHelp(2);

    Window window;
    const Driver driver(window, arguments);
    window.show();
    window.open(arguments.positionalArguments().first());
    return QApplication::exec();
}
