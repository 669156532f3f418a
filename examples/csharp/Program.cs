// Asks a bundle about a picture: dotnet run -- BUNDLE picture.jpg "What is on the label?"
using Valley2;

if (args.Length != 3)
{
    Console.Error.WriteLine("Usage: dotnet run -- BUNDLE PICTURE QUESTION");
    return 2;
}

using var stop = new CancellationTokenSource();
Console.CancelKeyPress += (_, key) =>
{
    key.Cancel = !stop.IsCancellationRequested; // the first Ctrl-C stops the answer, the second one the program
    stop.Cancel();
};

try
{
    using var model = await Model.OpenAsync(args[0], stop.Token);
    using var session = model.OpenSession();
    using var picture = await Picture.DecodeAsync(await File.ReadAllBytesAsync(args[1], stop.Token));
    await foreach (var piece in session.AskAsync(args[2], [picture], stop.Token))
        Console.Write(piece);
    Console.WriteLine();
    return 0;
}
catch (Exception error) when (error is Valley2Exception or OperationCanceledException or IOException)
{
    Console.Error.WriteLine(error.Message);
    return 1;
}
