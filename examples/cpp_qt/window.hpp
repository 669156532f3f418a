#pragma once

#include <QLabel>
#include <QLineEdit>
#include <QMainWindow>
#include <QProgressBar>
#include <QPushButton>
#include <QTextEdit>

#include "conversation.hpp"

class Window : public QMainWindow {
    Q_OBJECT

  public:
    Window();
    void open(const QString &bundle);
    Conversation &conversation() { return conversation_; }

  protected:
    void dragEnterEvent(QDragEnterEvent *event) override;
    void dropEvent(QDropEvent *event) override;

  private:
    enum class State { Loading, Ready, Answering };

    void layOut();
    void connectConversation();
    void enter(State state);
    void press();
    void append(const QString &text, const QColor &colour);

    QLabel *picture_;
    QTextEdit *transcript_;
    QLineEdit *question_;
    QPushButton *button_;
    QProgressBar *progress_;
    State state_ = State::Loading;
    Conversation conversation_;
};
