import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;

/** java.net.HttpURLConnection. */
public class ClassicClient {
    public static void main(String[] arguments) throws Exception {
        boolean isUpload = arguments[0].equals("upload");
        URL url = new URL(arguments[isUpload ? 2 : 1]);
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        if (isUpload) {
            Path file = Path.of(arguments[3]);
            byte[] before = new byte[0];
            byte[] after = new byte[0];
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.setRequestProperty("Content-Type", "text/csv");
            if (arguments[1].equals("form")) {
                connection.setRequestProperty("Content-Type", "multipart/form-data; boundary=boundary");
                before = ("--boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"users.csv\"\r\n"
                    + "Content-Type: text/csv\r\n\r\n").getBytes();
                after = "\r\n--boundary--\r\n".getBytes();
            }
            if (arguments[1].equals("chunked")) {
                connection.setChunkedStreamingMode(8192);
            } else {
                connection.setFixedLengthStreamingMode(before.length + Files.size(file) + after.length);
            }
            try (OutputStream body = connection.getOutputStream()) {
                body.write(before);
                Files.copy(file, body);
                body.write(after);
            }
        }
        int status = connection.getResponseCode();
        try (InputStream body = status < 300 ? connection.getInputStream() : connection.getErrorStream()) {
            if (isUpload) {
                body.transferTo(System.out);
                System.out.flush();
            } else {
                Files.copy(body, Path.of(arguments[2]));
            }
        }
        System.exit(status < 300 ? 0 : 1);
    }
}
