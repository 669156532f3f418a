// A conversation with a bundle, as an object of Qt's: no function waits, and signals tell what happens.
#pragma once

#include <QImage>
#include <QObject>
#include <QString>
#include <QThread>

#include <memory>

#include <valley2.h>

template <auto close>
struct Closer {
    void operator()(auto *handle) const { close(handle); }
};
template <typename Handle, auto close>
using Owned = std::unique_ptr<Handle, Closer<close>>;

class Conversation : public QObject {
    Q_OBJECT

  public:
    Conversation();
    ~Conversation() override; // stops what is going on, which takes some milliseconds

    void open(const QString &bundle);  // opened or failed
    void look(const QString &file);    // looked or failed; the picture goes with the next question
    void ask(const QString &question); // progressed, said; at last finished, after failed and stopped as well
    void stop() { v2e_cancel_set(cancel_.get()); }

  signals:
    void opened();
    void looked(const QImage &preview);
    void progressed(const QString &stage, int done, int total);
    void said(const QString &piece);
    void stopped();
    void finished();
    void warned(const QString &sentence);
    void failed(const QString &sentence);

  private:
    void openModel(const QByteArray &bundle);
    void decodePicture(const QString &file);
    void answerQuestion(const QByteArray &question);
    void tell(const v2e_event &event);
    bool succeeded(v2e_status status);

    Owned<v2e_cancel, v2e_cancel_destroy> cancel_;
    // What follows belongs to the thread alone, which does one thing after another.
    Owned<v2e_model, v2e_model_close> model_;
    Owned<v2e_session, v2e_session_close> session_;
    Owned<v2e_picture, v2e_picture_close> picture_;
    QObject worker_; // lives in the thread, so that what is queued for it runs there
    QThread thread_;
};
