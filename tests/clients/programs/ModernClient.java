import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/** java.net.http.HttpClient as it is by default: it asks for an upgrade to h2c on each new connection. */
public class ModernClient {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        if (arguments[0].equals("upload")) {
            Path file = Path.of(arguments[3]);
            String type = "text/csv";
            BodyPublisher body;
            switch (arguments[1]) {
                case "length" -> body = BodyPublishers.ofFile(file);
                case "chunked" -> body = BodyPublishers.ofInputStream(() -> open(file));
                default -> {
                    type = "multipart/form-data; boundary=boundary";
                    body = BodyPublishers.ofByteArray(form(file));
                }
            }
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[2]))
                .header("Content-Type", type).POST(body).build();
            HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
            System.out.print(response.body());
            System.exit(response.statusCode() < 300 ? 0 : 1);
        }
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[1])).build();
        HttpResponse<Path> response = client.send(request, BodyHandlers.ofFile(Path.of(arguments[2])));
        System.exit(response.statusCode() < 300 ? 0 : 1);
    }

    private static java.io.InputStream open(Path file) {
        try {
            return Files.newInputStream(file);
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    private static byte[] form(Path file) throws Exception {
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        body.write(("--boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"users.csv\"\r\n"
            + "Content-Type: text/csv\r\n\r\n").getBytes());
        body.write(Files.readAllBytes(file));
        body.write("\r\n--boundary--\r\n".getBytes());
        return body.toByteArray();
    }
}
