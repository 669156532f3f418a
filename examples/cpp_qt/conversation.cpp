#include "conversation.hpp"

#include <QFile>

#include <map>

// The longest side of a preview, in pixels.
static constexpr int PREVIEW = 480;

Conversation::Conversation() {
    v2e_cancel *cancel = nullptr;
    v2e_cancel_create(&cancel);
    cancel_.reset(cancel);
    worker_.moveToThread(&thread_);
    thread_.start();
}

Conversation::~Conversation() {
    stop();
    thread_.quit();
    thread_.wait();
}

void Conversation::open(const QString &bundle) {
    QMetaObject::invokeMethod(&worker_, [this, path = bundle.toUtf8()] { openModel(path); });
}

void Conversation::look(const QString &file) {
    QMetaObject::invokeMethod(&worker_, [this, file] { decodePicture(file); });
}

void Conversation::ask(const QString &question) {
    v2e_cancel_clear(cancel_.get()); // here, so that a stop that comes before the thread has begun is not lost
    QMetaObject::invokeMethod(&worker_, [this, text = question.toUtf8()] {
        answerQuestion(text);
        emit finished();
    });
}

bool Conversation::succeeded(v2e_status status) {
    if (status != V2E_OK && status != V2E_ERROR_CANCELLED)
        emit failed(QString::fromUtf8(v2e_last_error()));
    return status == V2E_OK;
}

void Conversation::openModel(const QByteArray &bundle) {
    v2e_model_options options = {};
    options.struct_size = sizeof options;
    options.cancel = cancel_.get();
    options.user_data = this;
    options.callback = [](const v2e_event *event, void *self) {
        static_cast<Conversation *>(self)->tell(*event);
        return 0;
    };
    v2e_model *model = nullptr;
    if (!succeeded(v2e_model_open(bundle.constData(), &options, &model)))
        return;
    model_.reset(model);
    v2e_session *session = nullptr;
    if (!succeeded(v2e_session_open(model, nullptr, &session)))
        return;
    session_.reset(session);
    emit opened();
}

void Conversation::decodePicture(const QString &name) {
    QFile file(name);
    if (!file.open(QIODevice::ReadOnly)) {
        emit failed(name + ": " + file.errorString());
        return;
    }
    const QByteArray bytes = file.readAll();
    v2e_picture *picture = nullptr;
    if (!succeeded(v2e_picture_decode(bytes.constData(), size_t(bytes.size()), nullptr, &picture)))
        return;
    picture_.reset(picture);
    v2e_picture_description size = {};
    size.struct_size = sizeof size;
    v2e_picture_describe(picture, &size);
    const int width = int(size.width), height = int(size.height);
    const QImage pixels(v2e_picture_pixels(picture), width, height, qsizetype(3) * width, QImage::Format_RGB888);
    const QSize fitted = pixels.size().scaled(PREVIEW, PREVIEW, Qt::KeepAspectRatio);
    emit looked(pixels.scaled(fitted, Qt::IgnoreAspectRatio, Qt::SmoothTransformation));
}

void Conversation::answerQuestion(const QByteArray &text) {
    const v2e_picture *picture = picture_.get();
    v2e_question question = {};
    question.struct_size = sizeof question;
    question.text = text.constData();
    question.pictures = &picture;
    question.picture_count = picture == nullptr ? 0 : 1;
    question.cancel = cancel_.get();
    v2e_answer *handle = nullptr;
    if (!succeeded(v2e_session_ask(session_.get(), &question, &handle)))
        return;
    const Owned<v2e_answer, v2e_answer_close> answer(handle);

    v2e_event event = {};
    event.struct_size = sizeof event;
    v2e_status status;
    while ((status = v2e_answer_next(handle, V2E_FOREVER, &event)) == V2E_OK && event.kind != V2E_EVENT_END)
        tell(event);
    if (!succeeded(status))
        return;
    if (event.reason == V2E_STOP_CANCELLED)
        emit stopped();
    else
        picture_.reset(); // it stays in the context; a question that was stopped may be asked again with it
}

void Conversation::tell(const v2e_event &event) {
    static const std::map<v2e_event_kind, const char *> STAGES = {{V2E_EVENT_LOAD, "Part"},
                                                                  {V2E_EVENT_TILE, "Tile"},
                                                                  {V2E_EVENT_LAYER, "Layer"},
                                                                  {V2E_EVENT_PREFILL, "Position"}};
    constexpr int MIB = 20;
    if (event.kind == V2E_EVENT_TEXT)
        emit said(QString::fromUtf8(event.text, qsizetype(event.size)));
    else if (event.kind == V2E_EVENT_WARNING)
        emit warned(QString::fromUtf8(event.text, qsizetype(event.size)));
    else if (event.kind == V2E_EVENT_CHECK)
        emit progressed("MiB checked:", int(event.done >> MIB), int(event.total >> MIB));
    else if (const auto stage = STAGES.find(event.kind); stage != STAGES.end())
        emit progressed(stage->second, int(event.done), int(event.total));
}
