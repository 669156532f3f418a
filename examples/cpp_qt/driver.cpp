#include "driver.hpp"

#include <QApplication>
#include <QDropEvent>
#include <QJsonArray>
#include <QJsonDocument>
#include <QMimeData>

#include <cstdio>
#include <utility>

using namespace std::chrono_literals;

static double milliseconds(const QElapsedTimer &timer) {
    return double(timer.nsecsElapsed()) / 1e6;
}

void Driver::declareOptions(QCommandLineParser &arguments) {
    arguments.addOption({"drop", "Drops a picture on the window.", "file"});
    arguments.addOption(
        {"ask", "Asks when the model is open, ends after the answer, and prints a report.", "question"});
    arguments.addOption({"stop-at", "Presses Stop at the first Ask, Tile, Layer, Position or Text.", "stage"});
    arguments.addOption({"close-at", "Closes the window there.", "stage"});
    arguments.addOption({"screenshot", "Saves the window after the last answer.", "file"});
}

Driver::Driver(Window &window, const QCommandLineParser &arguments)
    : window_(window), questions_(arguments.values("ask")), stopAt_(arguments.value("stop-at")),
      closeAt_(arguments.value("close-at")), screenshot_(arguments.value("screenshot")) {
    if (questions_.isEmpty())
        return;
    report_["answers"] = QJsonArray();
    report_["stages"] = QJsonArray();
    // A frame every 5 ms: what lies between two of them is how long the window stood still.
    connect(&frames_, &QTimer::timeout, this,
            [this] { longestGapMs_ = std::max(longestGapMs_, milliseconds(sinceFrame_)), sinceFrame_.start(); });
    frames_.setTimerType(Qt::PreciseTimer);
    frames_.start(5ms);
    sinceFrame_.start();

    Conversation &conversation = window.conversation();
    const QString file = arguments.value("drop");
    connect(&conversation, &Conversation::opened, this, [this, file] { file.isEmpty() ? askNext() : drop(file); });
    connect(&conversation, &Conversation::looked, this, &Driver::askNext);
    connect(&conversation, &Conversation::progressed, this, &Driver::act);
    connect(&conversation, &Conversation::said, this, [this](const QString &piece) {
        answer_ += piece;
        act("Text");
    });
    connect(&conversation, &Conversation::stopped, this, [this] { report_["stop_ms"] = milliseconds(sinceStop_); });
    connect(&conversation, &Conversation::finished, this, [this] {
        QJsonArray answers = report_["answers"].toArray();
        answers.append(answer_);
        report_["answers"] = answers;
        answer_.clear();
        questions_.isEmpty() ? end() : askNext();
    });
    connect(&conversation, &Conversation::failed, this, [this](const QString &sentence) {
        report_["failure"] = sentence;
        end();
    });
}

void Driver::drop(const QString &file) {
    QMimeData picture;
    picture.setUrls({QUrl::fromLocalFile(file)});
    QDragEnterEvent entered(QPoint(50, 50), Qt::CopyAction, &picture, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&window_, &entered);
    QDropEvent dropped(QPointF(50, 50), Qt::CopyAction, &picture, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&window_, &dropped);
}

void Driver::askNext() {
    window_.findChild<QLineEdit *>()->setText(questions_.takeFirst());
    window_.findChild<QPushButton *>()->click();
    act("Ask");
}

void Driver::act(const QString &stage) {
    QJsonArray stages = report_["stages"].toArray();
    if (!stages.contains(stage))
        stages.append(stage);
    report_["stages"] = stages;
    if (stage == stopAt_) {
        stopAt_.clear();
        sinceStop_.start();
        window_.findChild<QPushButton *>()->click();
    } else if (stage == closeAt_) {
        report_["closed"] = true;
        end();
    }
}

void Driver::end() {
    if (std::exchange(ended_, true))
        return; // signals that were on their way
    if (!screenshot_.isEmpty())
        window_.grab().save(screenshot_);
    report_["longest_gap_ms"] = longestGapMs_;
    std::puts(QJsonDocument(report_).toJson(QJsonDocument::Compact).constData());
    window_.close();
}
