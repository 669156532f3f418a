// What this program uses of valley2.h. The structs are compared with the header, field by field, by a test.
using System.Runtime.InteropServices;

namespace Valley2;

internal enum Status
{
    Ok = 0,
    Cancelled = 4,
}

internal enum EventKind : uint
{
    None = 0,
    Text = 5,
    End = 6,
}

internal enum StopReason : uint
{
    Cancelled = 5,
}

[StructLayout(LayoutKind.Sequential)]
internal struct v2e_event
{
    public nuint struct_size;
    public EventKind kind;
    public ulong done;
    public ulong total;
    public int token;
    public double elapsed_ms;
    public nint text;
    public nuint size;
    public StopReason reason;
}

[StructLayout(LayoutKind.Sequential)]
internal struct v2e_model_options
{
    public nuint struct_size;
    public uint threads;
    public uint isa;
    public uint activations;
    public uint device;
    public uint gpu_layers;
    public uint gpu_context;
    public ulong gpu_memory;
    public ulong memory;
    public uint keep_vision;
    public uint no_vision_cache;
    public ulong vision_cache_bytes;
    public uint no_prefix_cache;
    public ulong prefix_cache_bytes;
    public uint check;
    public nint verified_files;
    public nint vision_backend;
    public nint decoder_backend;
    public nint cancel;
    public nint callback;
    public nint user_data;
}

[StructLayout(LayoutKind.Sequential)]
internal struct v2e_session_options
{
    public nuint struct_size;
    public nint system;
    public uint think;
    public uint context_length;
    public uint kv_precision;
    public uint prefill_chunk;
    public uint reuse;
    public uint policy;
    public uint strict;
    public uint no_eagle;
    public uint no_tiles;
    public uint eagle_preset;
    public uint eagle_max_tokens;
    public uint eagle_min_tokens;
    public ulong max_picture_pixels;
}

[StructLayout(LayoutKind.Sequential)]
internal struct v2e_question
{
    public nuint struct_size;
    public nint text;
    public nint pictures;
    public nuint picture_count;
    public uint video;
    public nint messages;
    public nuint message_count;
    public uint think;
    public uint no_think;
    public uint max_new_tokens;
    public float temperature;
    public uint top_k;
    public float top_p;
    public float min_p;
    public float repetition_penalty;
    public uint fixed_seed;
    public ulong seed;
    public uint speculation;
    public nint stop_texts;
    public nuint stop_text_count;
    public uint token_events;
    public uint most_ahead;
    public nint cancel;
    public nint notify;
    public nint notify_data;
}

/// <summary>The functions. A handle that is an object is held while a call works on it; a closed one throws.</summary>
internal static partial class Native
{
    private const string Library = "valley2"; // valley2.dll, libvalley2.so or libvalley2.dylib

    [LibraryImport(Library)]
    internal static partial nint v2e_last_error();

    [LibraryImport(Library)]
    internal static partial Status v2e_cancel_create(out nint cancel);

    [LibraryImport(Library)]
    internal static partial void v2e_cancel_set(nint cancel);

    [LibraryImport(Library)]
    internal static partial void v2e_cancel_destroy(nint cancel);

    [LibraryImport(Library)]
    internal static partial Status v2e_picture_decode(ReadOnlySpan<byte> bytes, nuint size, nint options, out nint picture);

    [LibraryImport(Library)]
    internal static partial void v2e_picture_close(nint picture);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial Status v2e_model_open(string bundle_directory, in v2e_model_options options, out nint model);

    [LibraryImport(Library)]
    internal static partial void v2e_model_close(nint model);

    [LibraryImport(Library)]
    internal static partial Status v2e_session_open(Model model, in v2e_session_options options, out nint session);

    [LibraryImport(Library)]
    internal static partial void v2e_session_close(nint session);

    [LibraryImport(Library)]
    internal static partial Status v2e_session_ask(Session session, in v2e_question question, out nint answer);

    [LibraryImport(Library)]
    internal static partial Status v2e_answer_next(nint answer, uint timeout_ms, ref v2e_event happened);

    [LibraryImport(Library)]
    internal static partial void v2e_answer_cancel(nint answer);

    [LibraryImport(Library)]
    internal static partial void v2e_answer_close(nint answer);

    /// <summary>Throws the library's sentence. To be called on the thread whose call has failed.</summary>
    internal static void Check(Status status)
    {
        if (status == Status.Cancelled)
            throw new OperationCanceledException(Marshal.PtrToStringUTF8(v2e_last_error()));
        if (status != Status.Ok)
            throw new Valley2Exception(Marshal.PtrToStringUTF8(v2e_last_error())!);
    }
}
