using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static Valley2.Native;

namespace Valley2;

/// <summary>A failure, in the library's words.</summary>
public sealed class Valley2Exception(string sentence) : Exception(sentence);

/// <summary>A handle of the library's, given up once: by Dispose, or when nobody refers to it any more.</summary>
public abstract class Handle : SafeHandle
{
    private protected Handle(nint handle) : base(0, true) => SetHandle(handle);

    public override bool IsInvalid => handle == 0;
}

/// <summary>A picture, decoded once and good for any number of questions.</summary>
public sealed class Picture : Handle
{
    private Picture(nint handle) : base(handle) { }

    /// <summary>Decodes the bytes of a JPEG, PNG, WebP, GIF or BMP.</summary>
    public static Task<Picture> DecodeAsync(byte[] bytes) => Task.Run(() =>
    {
        Check(v2e_picture_decode(bytes, (nuint)bytes.Length, 0, out var picture));
        return new Picture(picture);
    });

    protected override bool ReleaseHandle()
    {
        v2e_picture_close(handle);
        return true;
    }
}

/// <summary>A loaded bundle.</summary>
public sealed class Model : Handle
{
    private Model(nint handle) : base(handle) { }

    /// <summary>Checks and maps a bundle, which takes seconds when it is new on the machine.</summary>
    public static Task<Model> OpenAsync(string bundle, CancellationToken token = default) => Task.Run(() =>
    {
        Check(v2e_cancel_create(out var cancel));
        try
        {
            using var registration = token.Register(() => v2e_cancel_set(cancel));
            var options = new v2e_model_options { struct_size = (nuint)Unsafe.SizeOf<v2e_model_options>(), cancel = cancel };
            Check(v2e_model_open(bundle, options, out var model));
            return new Model(model);
        }
        finally
        {
            v2e_cancel_destroy(cancel);
        }
    });

    /// <summary>Begins a conversation.</summary>
    public Session OpenSession(string? system = null)
    {
        var text = Marshal.StringToCoTaskMemUTF8(system);
        try
        {
            var options = new v2e_session_options { struct_size = (nuint)Unsafe.SizeOf<v2e_session_options>(), system = text };
            Check(v2e_session_open(this, options, out var session));
            return new Session(session);
        }
        finally
        {
            Marshal.FreeCoTaskMem(text);
        }
    }

    protected override bool ReleaseHandle()
    {
        v2e_model_close(handle);
        return true;
    }
}

/// <summary>A conversation: earlier questions, pictures and answers stay in its context.</summary>
public sealed class Session : Handle
{
    internal Session(nint handle) : base(handle) { }

    /// <summary>Asks, and gives the answer piece by piece. Leaving the loop ends it, and so does the token.</summary>
    public async IAsyncEnumerable<string> AskAsync(
        string question, IReadOnlyList<Picture>? pictures = null, [EnumeratorCancellation] CancellationToken token = default)
    {
        var answer = Ask(question, pictures ?? []);
        try
        {
            using var registration = token.Register(() => v2e_answer_cancel(answer));
            // A thread of the pool waits; the caller's own does not.
            while (await Task.Run(() => Next(answer)) is { } piece)
                yield return piece;
            token.ThrowIfCancellationRequested();
        }
        finally
        {
            await Task.Run(() => v2e_answer_close(answer));
        }
    }

    private nint Ask(string question, IReadOnlyList<Picture> pictures)
    {
        foreach (var picture in pictures)
            ObjectDisposedException.ThrowIf(picture.IsClosed, picture);
        var text = Marshal.StringToCoTaskMemUTF8(question);
        var shown = pictures.Select(picture => picture.DangerousGetHandle()).ToArray();
        var pinned = GCHandle.Alloc(shown, GCHandleType.Pinned);
        try
        {
            var asked = new v2e_question
            {
                struct_size = (nuint)Unsafe.SizeOf<v2e_question>(),
                text = text,
                pictures = pinned.AddrOfPinnedObject(),
                picture_count = (nuint)shown.Length,
            };
            Check(v2e_session_ask(this, asked, out var answer));
            return answer;
        }
        finally
        {
            pinned.Free();
            Marshal.FreeCoTaskMem(text);
            GC.KeepAlive(pictures);
        }
    }

    /// <summary>The next piece of an answer; null at its end.</summary>
    private static string? Next(nint answer)
    {
        var happened = new v2e_event { struct_size = (nuint)Unsafe.SizeOf<v2e_event>() };
        do
            Check(v2e_answer_next(answer, uint.MaxValue, ref happened));
        while (happened.kind is not (EventKind.Text or EventKind.End));
        return happened.kind == EventKind.End ? null : Marshal.PtrToStringUTF8(happened.text, (int)happened.size);
    }

    protected override bool ReleaseHandle()
    {
        v2e_session_close(handle);
        return true;
    }
}
