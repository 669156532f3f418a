// Uses the window as a person would, for tests and for the screenshot of the documentation: drops a picture, types a
// question, presses the button. A program of your own does not need this file.
#pragma once

#include <QCommandLineParser>
#include <QElapsedTimer>
#include <QJsonObject>
#include <QStringList>
#include <QTimer>

#include "window.hpp"

class Driver : public QObject {
    Q_OBJECT

  public:
    static void declareOptions(QCommandLineParser &arguments);
    Driver(Window &window, const QCommandLineParser &arguments);

  private:
    void drop(const QString &file);
    void askNext();
    void act(const QString &stage);
    void end();

    Window &window_;
    QStringList questions_;
    QString stopAt_, closeAt_, screenshot_, answer_;
    QJsonObject report_;
    QTimer frames_;
    QElapsedTimer sinceFrame_, sinceStop_;
    double longestGapMs_ = 0;
    bool ended_ = false;
};
