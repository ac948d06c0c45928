<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN" sourcelanguage="en">
  <context>
    <name>geoseg</name>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Canceled; no output was touched.</source>
      <translation>已取消；未改动任何输出文件。</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{model} on {device}</source>
      <translation>{model}，运行于 {device}</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Writing the results …</source>
      <translation>正在写入结果…</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{done} of {tiles}, {left} left</source>
      <translation>已完成 {done}/{tiles} 个切片，剩余 {left}</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Step {step}: {values}</source>
      <translation>第 {step} 步：{values}</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{n} s</source>
      <translation>{n} 秒</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{n} min</source>
      <translation>{n} 分钟</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>{h} h {n} min</source>
      <translation>{h} 小时 {n} 分钟</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Model</source>
      <translation>模型</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Only inside these polygons</source>
      <translation>仅处理这些多边形之内</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Simplify outlines by up to (m)</source>
      <translation>轮廓简化容差（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Straight outlines with right angles, moved by up to (m; or class=m,class=m)</source>
      <translation>轮廓规则化（直边、直角），最大偏移（米；或 类别=米,类别=米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Drop polygons smaller than (m²)</source>
      <translation>删除面积小于此值的多边形（平方米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Outlines along pixels, or smooth contours</source>
      <translation>轮廓样式：沿像元边界（pixel）或平滑等值线（contour）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Round off corners by up to (m)</source>
      <translation>将拐角磨圆，最大幅度（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Regions smaller than this take the class around them (m²)</source>
      <translation>小于此面积的区域并入周围的类别（平方米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Fill holes smaller than (m²)</source>
      <translation>填充小于此面积的孔洞（平方米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Drop polygons narrower than (m)</source>
      <translation>删除窄于此宽度的多边形（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>One feature for each class</source>
      <translation>每个类别融合为一个要素</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>More attributes: compactness, orientation, length, width …</source>
      <translation>更多属性：紧凑度、方向、长度、宽度…</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>CRS of the polygons, if not the image's</source>
      <translation>多边形的坐标参考系（默认与影像相同）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Decision level, or least score of an object, instead of the model's</source>
      <translation>判定阈值，或对象的最低得分（代替模型自带的值）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Cut objects apart where narrower than (m; or class=m,class=m)</source>
      <translation>在窄于此宽度处切分对象（米；或 类别=米,类别=米）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Class that is the line between objects</source>
      <translation>表示对象间分界线的类别</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Bands of the image for the model's: 4,3,2, or names</source>
      <translation>与模型波段对应的影像波段：如 4,3,2，或波段名称</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Values that become the model's range: auto, none, or LOW,HIGH</source>
      <translation>拉伸到模型取值范围的像元值：auto、none 或 最小值,最大值</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Size of the image's pixels (m), if wrong or missing</source>
      <translation>影像的地面分辨率（米），有误或缺失时填写</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Value that means no data</source>
      <translation>表示无数据（NoData）的像元值</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Edge of the tiles (px)</source>
      <translation>切片边长（像素）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>What neighbouring tiles share (px)</source>
      <translation>相邻切片的重叠宽度（像素）</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>How overlapping tiles are joined</source>
      <translation>重叠切片的拼接方式</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>How objects that several tiles see become one</source>
      <translation>多个切片中同一对象的合并方式</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Average over changed copies: hflip,vflip,rot90,scale:0.75</source>
      <translation>测试时增强（对变换后的副本取平均）：hflip,vflip,rot90,scale:0.75</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Device: auto, cpu, cuda, mps</source>
      <translation>计算设备：auto、cpu、cuda、mps</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Precision</source>
      <translation>计算精度</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Tiles that go through at once</source>
      <translation>每批处理的切片数</translation>
    </message>
    <message>
      <location filename="../algorithms/base.py" />
      <source>Threads of the processor</source>
      <translation>处理器线程数</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Segment many rasters</source>
      <translation>批量分割栅格影像</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Runs a model over layers, or over all rasters of a folder, and writes polygons for each into one folder; with a dataset also all of them into one file.

An image that cannot be done fails alone, with its reason in the log and in the report. Run again with the same folder and settings, and it goes on: what is done is not done twice.</source>
      <translation>对多个图层或某个文件夹中的全部栅格影像运行模型，并把每幅影像的多边形写入同一个文件夹；选择数据集时，还会把全部多边形写入一个文件。

无法处理的影像只会单独失败，原因记录在日志和报告中。使用相同的文件夹和设置再次运行即可继续：已完成的不会重复处理。</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Images</source>
      <translation>影像</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Folder of images</source>
      <translation>影像文件夹</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>All polygons also in one file: all.gpkg</source>
      <translation>同时把全部多边形写入一个文件：all.gpkg</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Try again what failed in an earlier run</source>
      <translation>重试上次运行中失败的影像</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Format of the polygons</source>
      <translation>多边形的文件格式</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Also the classes as rasters</source>
      <translation>同时输出分类栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Also the probabilities</source>
      <translation>同时输出概率栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Forget what was done, and do all anew</source>
      <translation>忽略已完成的结果，全部重新处理</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Folder of the results</source>
      <translation>结果文件夹</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Report</source>
      <translation>报告</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>All polygons</source>
      <translation>全部多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Choose images, or a folder of images.</source>
      <translation>请选择影像，或影像所在的文件夹。</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>Canceled. What is done stays; run it again with the same folder to go on.</source>
      <translation>已取消。已完成的结果会保留；使用相同的文件夹再次运行即可继续。</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>{done} of {scenes} images done, {failed} failed, {skipped} skipped.</source>
      <translation>共 {scenes} 幅影像：完成 {done}，失败 {failed}，跳过 {skipped}。</translation>
    </message>
    <message>
      <location filename="../algorithms/batch.py" />
      <source>{name}: {polygons} polygons</source>
      <translation>{name}：{polygons} 个多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Compare polygons with the truth</source>
      <translation>精度评价：多边形与真值对比</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Measures how good polygons are: IoU and F1 of pixels, boundaries and objects, each with its 95 % interval, in a report with pictures of the worst places.

Polygons: a result of geoseg, or any layer with a field class (none is needed where the truth has one class only); with a field score there is average precision, too. Image: what they were made of; it says where there is data. Labelled area: outside of it the truth is unknown, and nothing counts. Selected features only are ordinary here.

The folder gets report.html, report.json and places.gpkg: all objects, found, missed or false.</source>
      <translation>评价多边形的精度：像元、边界和对象的 IoU 与 F1，各附 95 % 置信区间，并生成带有最差位置图片的报告。

多边形：geoseg 的结果，或任何带 class 字段的图层（真值只有一个类别时不需要）；若有 score 字段，还会计算平均精度。影像：生成这些多边形所用的影像，用来判断哪里有数据。已标注区域：区域之外真值未知，不参与统计。可以只使用选中的要素。

文件夹中会生成 report.html、report.json 和 places.gpkg（全部对象：正确、漏检或误检）。</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Polygons</source>
      <translation>多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Truth</source>
      <translation>真值</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Image</source>
      <translation>影像</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Labelled area</source>
      <translation>已标注区域</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Field of the truth with the class</source>
      <translation>真值图层的类别字段</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>By how much boundaries may be off (m)</source>
      <translation>边界允许的偏差（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Leave out polygons smaller than (m²)</source>
      <translation>忽略小于此面积的多边形（平方米）</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Least score of objects that count</source>
      <translation>参与统计的对象的最低得分</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Limits of object sizes (m²): 50,200,1000</source>
      <translation>对象大小的分级界限（平方米）：50,200,1000</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Edge of the blocks for the intervals (m)</source>
      <translation>计算置信区间的分块边长（米）</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Folder of the report</source>
      <translation>报告文件夹</translation>
    </message>
    <message>
      <location filename="../algorithms/evaluate.py" />
      <source>Found, missed and false objects</source>
      <translation>正确、漏检和误检的对象</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Segment a raster</source>
      <translation>栅格影像分割</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Finds what the model knows (buildings, land cover, your own classes) in a raster of any size and writes polygons, each with its class, confidence and area. The raster is resampled to the model's resolution; bands or values that do not fit are reported.

Model: one of the list; Engine and models adds others to it. Scripts may also name a folder or zip, or several with a semicolon between, which are averaged. Advanced options that are not set are the model's own; some suit only models of pixels, or of objects, and are refused for others.

Map services (WMS, XYZ tiles) are rendered at the model's resolution first; choose an extent or polygons for them.

The engine must be set up once: Raster ▸ geoseg ▸ Engine and models.</source>
      <translation>在任意大小的栅格影像中识别模型所认识的地物（建筑物、土地覆盖或您自己的类别），输出多边形要素，每个要素带有类别、置信度和面积。影像会重采样到模型的地面分辨率；波段或像元值不匹配时会给出提示。

模型：从列表中选择；可在“引擎与模型”中添加其他模型。脚本中也可填写文件夹或 zip 文件，或用分号隔开的多个模型，结果取平均。未设置的高级选项采用模型自带的值；有些选项只适用于像元模型或对象模型，用于其他模型时会被拒绝。

地图服务（WMS、XYZ 瓦片）会先按模型的地面分辨率渲染；请为其选择范围或多边形。

引擎只需安装一次：栅格 ▸ geoseg ▸ 引擎与模型。</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Only this extent</source>
      <translation>仅处理此范围</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Pixels of the rasters: the model's, or the image's</source>
      <translation>输出栅格的像元：与模型一致（model），或与影像一致</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Classes as a raster</source>
      <translation>分类栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Probabilities</source>
      <translation>概率栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Number of polygons</source>
      <translation>多边形数量</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Choose an extent or polygons, not both.</source>
      <translation>范围和多边形只能选择其一。</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>{path} holds the polygons of the area. Choose another output.</source>
      <translation>{path} 正是限定范围的多边形所在的文件，请选择其他输出。</translation>
    </message>
    <message>
      <location filename="../algorithms/predict.py" />
      <source>Rendering {columns} × {rows} pixels of {gsd} m</source>
      <translation>正在渲染 {columns} × {rows} 像素，地面分辨率 {gsd} 米</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Train a model</source>
      <translation>训练模型</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Learns from an image and polygons that were drawn on it, and adds the new model to the list. What no polygon covers is background: where not everything was drawn, give the area that was, as polygons.

Start from: a model that knows something alike, as buildings-v1, needs fewer labels and steps. Without one, a network begins with general weights. A thousand steps take minutes on a graphics card and up to an hour on a processor.

The folder gets the labels, the recipe and the run. If it is canceled, or the computer goes off, run it again with the same settings and the same folder: it goes on from its last checkpoint.</source>
      <translation>从一幅影像和在其上勾绘的多边形中学习，并把新模型加入列表。没有被多边形覆盖的地方视为背景：如果没有全部勾绘，请用多边形给出已完整勾绘的区域。

起始模型：选择一个认识相似地物的模型（如 buildings-v1），需要的标注和步数更少；不选则网络从通用权重开始。一千步在显卡上需要几分钟，在处理器上最多约一小时。

文件夹中会保存标签、训练配方和训练过程。如果训练被取消或电脑关机，使用相同的设置和文件夹再次运行，即可从最近的检查点继续。</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Labelled polygons</source>
      <translation>标注多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Area that was labelled</source>
      <translation>已完整标注的区域</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Name of the new model, else the layer's</source>
      <translation>新模型的名称（默认为图层名称）</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Field with the class</source>
      <translation>类别字段</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Start from this model</source>
      <translation>起始模型</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Steps</source>
      <translation>训练步数</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Tell objects apart (Mask R-CNN)</source>
      <translation>区分单个对象（Mask R-CNN）</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Only these values of the field: house,road</source>
      <translation>仅使用字段的这些值：house,road</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Size of a pixel to train at (m), else the image's</source>
      <translation>训练用的地面分辨率（米，默认与影像相同）</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Replace a model of that name</source>
      <translation>替换同名模型</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Folder of the training</source>
      <translation>训练文件夹</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Name of the model</source>
      <translation>模型名称</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Folder of the model</source>
      <translation>模型文件夹</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Score on the validation blocks</source>
      <translation>验证块上的得分</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>There is a model {name} already. Give the new one another name, or choose to replace it.</source>
      <translation>已存在名为 {name} 的模型。请为新模型另取名称，或选择替换。</translation>
    </message>
    <message>
      <location filename="../algorithms/train.py" />
      <source>Canceled. Run it again with the same settings and the folder {folder}: it goes on from its last checkpoint.</source>
      <translation>已取消。使用相同的设置和文件夹 {folder} 再次运行，即可从最近的检查点继续。</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Polygons of a raster of classes</source>
      <translation>分类栅格转多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Writes the polygons of a raster of class numbers from any tool, in memory that does not grow with its size: neighbours keep their common edge, also when simplified or made straight.

Names of classes that are not given are taken from the layer's style, if it is paletted, or from the file. Numbers of the background have no polygons. With a raster of probabilities on the same pixels, polygons get a confidence, and contours become smooth.</source>
      <translation>把任何工具生成的分类栅格（像元值为类别编号）转换为多边形，所用内存不随栅格大小增长：相邻多边形共用边界，简化或规则化之后也是如此。

未给出的类别名称取自图层的样式（唯一值渲染时）或文件本身。背景编号不生成多边形。若提供像元对应的概率栅格，多边形会带有置信度，等值线轮廓也更平滑。</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Raster of classes</source>
      <translation>分类栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Band</source>
      <translation>波段</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Names of classes: 1=building,2=road</source>
      <translation>类别名称：1=building,2=road</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Background: none, or numbers: 0,255</source>
      <translation>背景：none，或编号，如 0,255</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Probabilities on the same pixels</source>
      <translation>像元对应的概率栅格</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Decision level of the only class</source>
      <translation>单一类别的判定阈值</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>8: pixels of a class that meet at a point are one polygon, too</source>
      <translation>8 邻域：仅在角点相接的同类像元也合为一个多边形</translation>
    </message>
    <message>
      <location filename="../algorithms/vectorize.py" />
      <source>Size of a pixel (m), where there is no CRS</source>
      <translation>地面分辨率（米），没有坐标参考系时填写</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Which part of the layer is segmented</source>
      <translation>对图层的哪一部分进行分割</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Whole layer</source>
      <translation>整个图层</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Map view</source>
      <translation>地图视图范围</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Rectangle</source>
      <translation>矩形</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Polygons of a layer</source>
      <translation>某图层的多边形</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>&amp;Draw on the map</source>
      <translation>在地图上绘制（&amp;D）</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Drag a rectangle on the map; Esc or another tool ends it</source>
      <translation>在地图上拖出一个矩形；按 Esc 或切换工具结束</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Only what lies inside these polygons, in any CRS</source>
      <translation>只处理这些多边形之内的部分，坐标参考系不限</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Selected features &amp;only</source>
      <translation>仅选中的要素（&amp;O）</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Draw a rectangle on the map.</source>
      <translation>请在地图上绘制一个矩形。</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>The layer lies outside of this area. Zoom to it, or draw again.</source>
      <translation>图层在此范围之外。请缩放到图层，或重新绘制。</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Add a layer with polygons first.</source>
      <translation>请先添加一个多边形图层。</translation>
    </message>
    <message>
      <location filename="../area.py" />
      <source>Select polygons of {layer}.</source>
      <translation>请在图层 {layer} 中选择多边形。</translation>
    </message>
    <message>
      <location filename="../bands.py" />
      <source>Choose &amp;bands myself</source>
      <translation>自行选择波段（&amp;B）</translation>
    </message>
    <message>
      <location filename="../bands.py" />
      <source>Off: the engine finds the bands by their names and colours</source>
      <translation>不勾选时，引擎按波段名称和颜色自动对应</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Segment this layer</source>
      <translation>分割此图层</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>An image: a file, or a map service, which is rendered first</source>
      <translation>影像：文件，或地图服务（会先渲染）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Layer</source>
      <translation>图层（&amp;L）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Model</source>
      <translation>模型（&amp;M）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Area</source>
      <translation>范围（&amp;A）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Outlines</source>
      <translation>轮廓</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Straight walls and right angles; points move so far at most</source>
      <translation>使边缘平直、转角成直角；顶点最多移动这么远</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Fewer points; the outline moves so far at most</source>
      <translation>减少顶点；轮廓最多偏移这么远</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Smaller polygons are dropped</source>
      <translation>小于此面积的多边形将被删除</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Straighten by</source>
      <translation>规则化（&amp;S）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Sim&amp;plify by</source>
      <translation>简化（&amp;P）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Smallest a&amp;rea</source>
      <translation>最小面积（&amp;R）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Result</source>
      <translation>结果</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>GeoPackage</source>
      <translation>GeoPackage</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Temporary layer</source>
      <translation>临时图层</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>A GeoPackage, or nothing for a layer that goes with QGIS</source>
      <translation>GeoPackage 文件；留空则为临时图层，关闭 QGIS 后消失</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Probabilities as a raster, too</source>
      <translation>同时输出概率栅格（&amp;P）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>A GeoTIFF beside the polygons, one band a class</source>
      <translation>与多边形放在一起的 GeoTIFF，每个类别一个波段</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>What will happen</source>
      <translation>运行前检查</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Set up the &amp;engine …</source>
      <translation>安装引擎（&amp;E）…</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Details</source>
      <translation>详细信息（&amp;D）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>All that the run said</source>
      <translation>运行过程的全部输出</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Se&amp;gment</source>
      <translation>分割（&amp;G）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>&amp;Cancel</source>
      <translation>取消（&amp;C）</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Add an image to the map first.</source>
      <translation>请先在地图中添加影像。</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>{layer} cannot be read: its file or its server is gone.</source>
      <translation>无法读取 {layer}：其文件或服务器已不存在。</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Looking at the image …</source>
      <translation>正在检查影像…</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>{name}, probabilities</source>
      <translation>{name}，概率</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>The engine starts …</source>
      <translation>引擎正在启动…</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Canceling …</source>
      <translation>正在取消…</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>{n} polygons</source>
      <translation>{n} 个多边形</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>The run failed.</source>
      <translation>运行失败。</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>Details</source>
      <translation>详细信息</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>off</source>
      <translation>关闭</translation>
    </message>
    <message>
      <location filename="../dock.py" />
      <source>{file} is a layer of the project ({layer}). Choose another name for the result, or remove that layer first.</source>
      <translation>{file} 是工程中的图层（{layer}）。请为结果另选名称，或先移除该图层。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>the setting</source>
      <translation>设置</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>geoseg's engine is not set up yet.</source>
      <translation>尚未安装 geoseg 引擎。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>Set it up under Raster ▸ geoseg ▸ Engine and models, or name there the Python that has geoseg.</source>
      <translation>请在“栅格 ▸ geoseg ▸ 引擎与模型”中安装，或在其中指定已装有 geoseg 的 Python。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{origin} names {path}, which does not exist.</source>
      <translation>{origin}指定的 {path} 不存在。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>geoseg does not answer within {seconds} s. Try again; if it stays so, repair the engine.</source>
      <translation>geoseg 在 {seconds} 秒内没有响应。请重试；若仍如此，请修复引擎。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{folder} was not made by this plugin, so it stays. Delete it by hand if it may go.</source>
      <translation>{folder} 不是由本插件创建的，因此予以保留。如确定不再需要，请手动删除。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{folder} cannot be removed ({error}). End all runs of geoseg and try again.</source>
      <translation>无法移除 {folder}（{error}）。请结束所有 geoseg 任务后重试。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{folder} is no folder. Choose the one that holds the wheels.</source>
      <translation>{folder} 不是文件夹。请选择存放 wheel 文件的文件夹。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{python} makes {folder}</source>
      <translation>{python} 正在创建 {folder}</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>Checking …</source>
      <translation>正在检查…</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{folder} holds other files. Choose an empty or a new folder.</source>
      <translation>{folder} 中有其他文件。请选择空文件夹或新文件夹。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{folder} is in use ({error}). End all runs of geoseg and try again.</source>
      <translation>{folder} 正在使用中（{error}）。请结束所有 geoseg 任务后重试。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>No Python 3.11 to 3.13 that can make environments was found. Install one, without admin rights from python.org, or on Debian and Ubuntu the packages python3 and python3-venv.</source>
      <translation>没有找到可创建环境的 Python 3.11 至 3.13。请安装：可从 python.org 安装（无需管理员权限），Debian 和 Ubuntu 上安装软件包 python3 和 python3-venv。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>{command} did not answer within {seconds} s. Try again.</source>
      <translation>{command} 在 {seconds} 秒内没有响应。请重试。</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>The engine's set-up failed (code {code}):</source>
      <translation>引擎安装失败（代码 {code}）：</translation>
    </message>
    <message>
      <location filename="../environment.py" />
      <source>Check the connection, the proxy and the free space on the disk, and try again.</source>
      <translation>请检查网络连接、代理和磁盘剩余空间，然后重试。</translation>
    </message>
    <message>
      <location filename="../inputs.py" />
      <source>{layer} comes from {provider}, not from a file. Export it to a GeoTIFF first; “Segment a raster” does so by itself.</source>
      <translation>图层 {layer} 来自 {provider}，而不是文件。请先将其导出为 GeoTIFF；“栅格影像分割”会自动完成这一步。</translation>
    </message>
    <message>
      <location filename="../inputs.py" />
      <source>{layer} is only in QGIS's memory. Export it to a GeoTIFF first.</source>
      <translation>图层 {layer} 仅存在于 QGIS 的内存中。请先将其导出为 GeoTIFF。</translation>
    </message>
    <message>
      <location filename="../inputs.py" />
      <source>{layer} cannot be opened by GDAL: {error}</source>
      <translation>GDAL 无法打开图层 {layer}：{error}</translation>
    </message>
    <message>
      <location filename="../model_box.py" />
      <source>What is looked for; models are added under Engine and models</source>
      <translation>要识别的地物；可在“引擎与模型”中添加模型</translation>
    </message>
    <message>
      <location filename="../model_box.py" />
      <source>{name} (needs the full engine)</source>
      <translation>{name}（需要完整引擎）</translation>
    </message>
    <message>
      <location filename="../model_box.py" />
      <source>Finds single objects</source>
      <translation>识别单个对象</translation>
    </message>
    <message>
      <location filename="../model_box.py" />
      <source>Finds areas</source>
      <translation>识别区域</translation>
    </message>
    <message>
      <location filename="../model_box.py" />
      <source>{kind}. Expects {bands} at {gsd} m per pixel.</source>
      <translation>{kind}。要求波段 {bands}，地面分辨率 {gsd} 米。</translation>
    </message>
    <message>
      <location filename="../plugin.py" />
      <source>Engine and models …</source>
      <translation>引擎与模型…</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>the resolution fits the model: {gsd} m</source>
      <translation>地面分辨率与模型相符：{gsd} 米</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>{columns} × {rows} pixels of {gsd} m are fetched from the map service first</source>
      <translation>先从地图服务获取 {columns} × {rows} 像素，地面分辨率 {gsd} 米</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>nothing to do: no valid pixels in this area</source>
      <translation>无需处理：此范围内没有有效像元</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>tiles: {tiles}; about {time} on {device} once the model is loaded</source>
      <translation>切片数：{tiles}；模型加载后在{device}上约需 {time}</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>{size} of memory for image and scores, beside the model</source>
      <translation>除模型外，影像和概率约占内存 {size}</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>the processor</source>
      <translation>处理器</translation>
    </message>
    <message>
      <location filename="../preflight.py" />
      <source>the GPU</source>
      <translation>显卡</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>The extent lies outside {layer}. Choose another extent.</source>
      <translation>所选范围在图层 {layer} 之外。请选择其他范围。</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>{layer} would be {columns} × {rows} pixels at {gsd} m, too many to ask a server for. Zoom in, draw a smaller extent, or use a model with larger pixels.</source>
      <translation>图层 {layer} 在地面分辨率 {gsd} 米下将有 {columns} × {rows} 像素，向服务器请求过多。请放大视图、绘制更小的范围，或使用地面分辨率更粗的模型。</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>The layer's finest pixels are {finest} m; the model expects {gsd} m.</source>
      <translation>图层最高地面分辨率为 {finest} 米；模型要求 {gsd} 米。</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>{path} could not be written. Is there space left on the disk?</source>
      <translation>无法写入 {path}。磁盘还有剩余空间吗？</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>{layer} delivered no image for this extent. Check that it is shown on the map there and that the server answers.</source>
      <translation>图层 {layer} 没有返回此范围的影像。请确认地图上该处能显示此图层，并且服务器有响应。</translation>
    </message>
    <message>
      <location filename="../render.py" />
      <source>The extent cannot be told in {crs}. Choose a smaller one.</source>
      <translation>该范围无法用 {crs} 表示。请选择更小的范围。</translation>
    </message>
    <message>
      <location filename="../results.py" />
      <source>The layer could not be styled: {error}</source>
      <translation>无法设置图层样式：{error}</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>Repair the engine: Raster ▸ geoseg ▸ Engine and models. If that does not help, copy the diagnostics there.</source>
      <translation>请修复引擎：栅格 ▸ geoseg ▸ 引擎与模型。若仍无法解决，请在该窗口中复制诊断信息。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>In QGIS: repair the engine as full, under Raster ▸ geoseg ▸ Engine and models.</source>
      <translation>在 QGIS 中：请在“栅格 ▸ geoseg ▸ 引擎与模型”中将引擎修复为完整版。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>The engine and the plugin may be of different versions: update the engine (Raster ▸ geoseg ▸ Engine and models), or the plugin.</source>
      <translation>引擎与插件的版本可能不一致：请更新引擎（栅格 ▸ geoseg ▸ 引擎与模型）或更新插件。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>geoseg failed.</source>
      <translation>geoseg 运行失败。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>geoseg wrote what is no event: {start}.</source>
      <translation>geoseg 的输出不是有效事件：{start}。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>geoseg does not take what it was called with: {option}</source>
      <translation>geoseg 不接受所给的参数：{option}</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>geoseg ended with code {code} and no result.</source>
      <translation>geoseg 以代码 {code} 结束，没有结果。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>geoseg was killed; the computer may have run out of memory: try smaller tiles.</source>
      <translation>geoseg 被强制终止，可能是内存不足：请减小切片尺寸。</translation>
    </message>
    <message>
      <location filename="../runner.py" />
      <source>{command} does not start ({error}). Set up the engine: Raster ▸ geoseg ▸ Engine and models.</source>
      <translation>{command} 无法启动（{error}）。请安装引擎：栅格 ▸ geoseg ▸ 引擎与模型。</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>geoseg: engine and models</source>
      <translation>geoseg：引擎与模型</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Engine</source>
      <translation>引擎</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Models</source>
      <translation>模型</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Copy diagnostics</source>
      <translation>复制诊断信息</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>Gathering …</source>
      <translation>正在收集…</translation>
    </message>
    <message>
      <location filename="../setup_dialog.py" />
      <source>The diagnostics are on the clipboard.</source>
      <translation>诊断信息已复制到剪贴板。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>found by itself</source>
      <translation>自动查找</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>A Python that has geoseg, the geoseg command, or the folder of an environment</source>
      <translation>已安装 geoseg 的 Python、geoseg 命令，或 Python 环境所在的文件夹</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Use</source>
      <translation>使用</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Another engine:</source>
      <translation>其他引擎：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Private environment</source>
      <translation>专用环境</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>light: predicts, about 1 GB</source>
      <translation>轻量：仅预测，约 1 GB</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Without PyTorch: no training, and only models that have an ONNX graph; on the CPU</source>
      <translation>不含 PyTorch：不能训练，只能运行带有 ONNX 图的模型；仅用 CPU</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>full: all models, training</source>
      <translation>完整：所有模型和训练</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>With PyTorch: about 6.5 GB on Linux, where it brings its CUDA libraries</source>
      <translation>含 PyTorch：在 Linux 上约 6.5 GB，因为它自带 CUDA 库</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>CPU</source>
      <translation>CPU</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>NVIDIA GPU (CUDA)</source>
      <translation>NVIDIA 显卡（CUDA）</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>the package index</source>
      <translation>在线软件包索引</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>a folder of wheels:</source>
      <translation>本地 wheel 文件夹：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Engine:</source>
      <translation>引擎：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Runs on:</source>
      <translation>运行于：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Packages from:</source>
      <translation>软件包来源：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Set up</source>
      <translation>安装</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Remove</source>
      <translation>移除</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Advanced</source>
      <translation>高级</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>What pip installs: a name with or without version, a wheel, a folder, an address</source>
      <translation>pip 要安装的内容：包名（可带版本号）、wheel 文件、文件夹或网址</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>none</source>
      <translation>无</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The address of a second index, for PyTorch's builds for one device only. The common index has CUDA's build on Linux (several GB) and the CPU's elsewhere.</source>
      <translation>第二个软件包索引的网址，用于获取只面向某一种设备的 PyTorch。默认索引在 Linux 上提供 CUDA 版（数 GB），在其他系统上提供 CPU 版。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg itself:</source>
      <translation>geoseg 本身：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Index for PyTorch:</source>
      <translation>PyTorch 索引：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Folder:</source>
      <translation>文件夹：</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Cancel</source>
      <translation>取消</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Looking for the engine …</source>
      <translation>正在查找引擎…</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>No engine yet.</source>
      <translation>尚未安装引擎。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The engine is ready.</source>
      <translation>引擎已就绪。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg: setting up the engine</source>
      <translation>geoseg：正在安装引擎</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Remove the environment</source>
      <translation>移除环境</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Delete {folder} and all packages in it?</source>
      <translation>删除 {folder} 及其中的所有软件包吗？</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>{folder} is removed.</source>
      <translation>已移除 {folder}。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>geoseg: removing the engine</source>
      <translation>geoseg：正在移除引擎</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>There is no such geoseg. Give a wheel, the folder of a clone, or an address: Advanced ▸ geoseg itself.</source>
      <translation>找不到这个 geoseg。请在“高级 ▸ geoseg 本身”中给出 wheel 文件、源码文件夹或网址。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Canceled; all is as it was before.</source>
      <translation>已取消；一切恢复原状。</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Repair or update</source>
      <translation>修复或更新</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>light engine: no training</source>
      <translation>轻量引擎：不能训练</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Versions</source>
      <translation>版本</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>Runs on</source>
      <translation>运行于</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>no device</source>
      <translation>没有可用设备</translation>
    </message>
    <message>
      <location filename="../setup_engine.py" />
      <source>The plugin is version {ours}, the engine {theirs}: update the engine (Repair or update), or the plugin.</source>
      <translation>插件版本为 {ours}，引擎版本为 {theirs}：请更新引擎（点击“修复或更新”）或更新插件。</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Name</source>
      <translation>名称</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Version</source>
      <translation>版本</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Pixel size (m)</source>
      <translation>地面分辨率（米）</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Bands</source>
      <translation>波段</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Classes</source>
      <translation>类别</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>folder, zip, web address, or owner/name</source>
      <translation>文件夹、zip 文件、网址，或 所有者/名称</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's folder or zip, the address of a zip, or a Hugging Face repository</source>
      <translation>模型的文件夹或 zip 文件、zip 的网址，或 Hugging Face 仓库</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Add</source>
      <translation>添加</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Add a model:</source>
      <translation>添加模型：</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Folder …</source>
      <translation>文件夹…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Zip …</source>
      <translation>zip 文件…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Getting and checking the model …</source>
      <translation>正在获取并检查模型…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>Removing …</source>
      <translation>正在移除…</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>geoseg: models</source>
      <translation>geoseg：模型</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's folder</source>
      <translation>模型的文件夹</translation>
    </message>
    <message>
      <location filename="../setup_models.py" />
      <source>A model's zip</source>
      <translation>模型的 zip 文件</translation>
    </message>
    <message>
      <location filename="../style.py" />
      <source>classes</source>
      <translation>类别</translation>
    </message>
    <message>
      <location filename="../style.py" />
      <source>confidence</source>
      <translation>置信度</translation>
    </message>
    <message>
      <location filename="../style.py" />
      <source>Made by geoseg {version} with the model {model}.</source>
      <translation>由 geoseg {version} 使用模型 {model} 生成。</translation>
    </message>
    <message>
      <location filename="../style.py" />
      <source>Model: {license}</source>
      <translation>模型许可：{license}</translation>
    </message>
  </context>
</TS>
